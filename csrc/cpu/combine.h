// A weighted sum of tensors, one pass over memory.
//
// The loops are plain: the compiler makes the vectors, and a lane's arithmetic is the scalar arithmetic of the
// definition, so all instruction sets return the same bits (no fused multiply-add: -ffp-contract=off).

// `omp simd` states what the compiler cannot know: `out` is one of the terms or apart from all, so that no iteration
// reads what another one writes.
template <int count, bool clipped>
void combine_terms(float* out, const float* const* terms, const float* coefs, int64_t n, Clip clip) {
  const float* x[count + 1];  // local copies, or else the compiler would reload them after every store; + 1: no x[0]
  float c[count + 1];
  for (int j = 0; j < count; ++j) x[j] = terms[j], c[j] = coefs[j];
  const float low = clip.low, high = clip.high;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    float sum = count ? c[0] * x[0][i] : 0.0f;
    for (int j = 1; j < count; ++j) sum = sum + c[j] * x[j][i];
    if (clipped) {  // two instructions, min and max, if it is written so; NaN stays NaN
      sum = sum > high ? high : sum;
      sum = sum < low ? low : sum;
    }
    out[i] = sum;
  }
}

template <bool clipped>
void combine_count(float* out, const float* const* terms, const float* coefs, int count, int64_t n, Clip clip) {
  static constexpr decltype(&combine_terms<0, clipped>) by_count[] = {
      combine_terms<0, clipped>, combine_terms<1, clipped>, combine_terms<2, clipped>, combine_terms<3, clipped>,
      combine_terms<4, clipped>, combine_terms<5, clipped>, combine_terms<6, clipped>, combine_terms<7, clipped>,
      combine_terms<8, clipped>, combine_terms<9, clipped>};
  static_assert(sizeof by_count / sizeof by_count[0] == kMaxTerms + 2);
  by_count[count](out, terms, coefs, n, clip);
}

void combine(float* out, const float* const* terms, const float* coefs, int count, int64_t n, Clip clip) {
  (clip.on ? combine_count<true> : combine_count<false>)(out, terms, coefs, count, n, clip);
}
