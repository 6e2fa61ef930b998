// Attention of one head, forward and backward, without the matrix of all scores in memory: a block of queries meets a
// block of keys at a time. Dao et al., 2022, "FlashAttention: fast and memory-efficient exact attention with
// IO-awareness", arXiv:2205.14135. Exponents are in units of ln 2, so that e^x becomes 2^x.
namespace panels {

// The sizes of blocks matter little (a factor of 2 in any of them: 2%, on one core of a Zen 5); they bound what has to
// stay in the second-level cache.
constexpr int64_t kQueries = 16 * R, kKeys = 32 * W;
constexpr int64_t kQueriesBackward = 8 * R, kKeysBackward = 16 * W;

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLowest = -std::numeric_limits<float>::max();  // finite: -infinity less -infinity would be NaN

// 2^x for x <= 0 or little more, to 1e-7 of its value, to 1e-4 where it will be rounded to bfloat16; NaN stays. With
// the exp of simd.h, which takes any number, the forward pass takes 11% longer, in bfloat16 20%.
template <int pack>
FN F power(F x) {
  x = max(set(-200.0f), x);  // gives zero, as -infinity has to, which has no fraction; in this order NaN stays
#if GENSYS_BYTES == 64
  const F n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const F magic = set(0x1.8p23f);  // adding it rounds to an integer, which is then in the low bits
  const F shifted = x + magic, n = shifted - magic;
#endif
  const F r = x - n;
  F p;  // (2^r - 1) / r for |r| <= 1 / 2, with the least largest error of 1 + r p relative to 2^r
  if (pack == 2) {
    p = set(0.05500893294811249f);
    p = fma(p, r, set(0.2422109693288803f));
    p = fma(p, r, set(0.6932829022407532f));
  } else {
    p = set(0.001326472731307149f);
    p = fma(p, r, set(0.009671512991189957f));
    p = fma(p, r, set(0.05550733581185341f));
    p = fma(p, r, set(0.24022242426872253f));
    p = fma(p, r, set(0.6931470036506653f));
  }
  p = fma(p, r, set(1.0f));
#if GENSYS_BYTES == 64
  return _mm512_scalef_ps(p, n);
#else
  const F y = F(I(p) + (I(shifted) << 23));  // n is added to the exponent
  return x < -126.0f ? F{} : x == x ? y : x;
#endif
}

// The scores of a vector of keys of which only the first `count` exist: the others get no weight.
FN F masked(F s, int64_t count) {
  I lane;
  for (int i = 0; i < W; ++i) lane[i] = i;
  return lane < int32_t(count) ? s : set(-std::numeric_limits<float>::infinity());
}

// Sizes, in floats, of the packed operands of a head, and how its work is laid out.
template <typename T>
struct Layout {
  static constexpr int pack = pack_of<T>;
  static_assert(pack == 1 || N == 2);
  const int64_t vectors, columns, lanes;  // vectors of keys, of depth; lanes of depth
  const int64_t left_group, turned_column, right_column, sum_group;
  float* end;

  Layout(const Attention& a, float* work)
      : vectors(ceil_div(a.keys, W)),
        columns(ceil_div(a.depth, W)),
        lanes(ceil_div(a.depth, pack)),
        left_group(ceil_div(lanes, W) * R * W),
        turned_column(lanes * W),
        right_column(ceil_div(a.keys, pack) * W),
        sum_group(columns * R * W),
        end(work) {}

  float* take(int64_t n) { return (end += n) - n; }
};

// Scores of a group of queries become weights 2^(scale s - top), packed as a left, in place. `top` is the largest
// exponent so far, `sum` that of the weights. What was summed under the top before has to be multiplied by the result.
template <int pack>
F soften(float* s, int64_t vectors, float scale, F& top, F& sum) {
  F best[R], total[R] = {};
  for (int r = 0; r < R; ++r) best[r] = load(s + r * W);
  for (int64_t v = 1; v < vectors; ++v)
    for (int r = 0; r < R; ++r) best[r] = max(best[r], load(s + (v * R + r) * W));
  const F before = top;
  top = max(top, join_rows<Max>(best) * scale);
  float shift[R];
  put_rows(shift, -top);
  const float* from = s;
  for (int64_t v = 0; v < vectors; v += pack, from += pack * R * W, s += R * W)
    for (int r = 0; r < R; ++r) {
      F p[2] = {};
      for (int h = 0; h < pack && v + h < vectors; ++h) {
        p[h] = power<pack>(fma(load(from + (h * R + r) * W), set(scale), set(shift[r])));
        total[r] = total[r] + p[h];
      }
      store(s + r * W, pack == 2 ? consecutive(p[0], p[1]) : p[0]);
    }
  const F factor = power<1>(before - top);
  sum = fma(sum, factor, join_rows<Sum>(total));
  return factor;
}

template <typename T>
int64_t attention(const Attention& a, float* work) {
  constexpr int pack = pack_of<T>;
  Layout<T> w(a, work);
  const int64_t block = ceil_div(std::min(kQueries, a.queries), R);  // groups
  const int64_t score_group = std::min(ceil_div(w.vectors, 2) * 2 * W, kKeys) * R;
  float* const queries = w.take(block * w.left_group);
  float* const keys = w.take(w.vectors * w.turned_column);
  float* const values = w.take(w.columns * w.right_column);
  float* const scores = w.take(block * score_group);
  float* const out = w.take(block * w.sum_group);
  if (!work) return w.end - work;

  const float scale = a.scale * kLog2e;
  pack_right_turned<pack, T>(keys, a.key, a.keys, a.depth);
  pack_right<pack, T>(values, a.value, 0, a.keys, a.depth);
  for (int64_t q = 0; q < a.queries; q += kQueries) {
    const int64_t rows = std::min(kQueries, a.queries - q), groups = ceil_div(rows, R);
    pack_left<pack, T>(queries, a.query, q, rows, a.depth);
    F top[kQueries / R], sum[kQueries / R], factor[kQueries / R];
    for (int64_t g = 0; g < groups; ++g) top[g] = set(kLowest), sum[g] = F{};
    for (int64_t k = 0; k < a.keys; k += kKeys) {
      const int64_t count = std::min(kKeys, a.keys - k), vectors = ceil_div(count, W);
      by_vectors(vectors, [&](int64_t v, auto n) __attribute__((always_inline)) {
        for (int64_t g = 0; g < groups; ++g) {
          F c[R][n()] = {};
          multiply<pack>(c, queries + g * w.left_group, keys + (k / W + v) * w.turned_column, w.turned_column, w.lanes);
          if ((v + n()) * W > count)
            for (int r = 0; r < R; ++r) c[r][n() - 1] = masked(c[r][n() - 1], count - (v + n() - 1) * W);
          put(c, scores + g * score_group + v * R * W);
        }
      });
      for (int64_t g = 0; g < groups; ++g)
        factor[g] = soften<pack>(scores + g * score_group, vectors, scale, top[g], sum[g]);
      by_vectors(w.columns, [&](int64_t v, auto n) __attribute__((always_inline)) {
        for (int64_t g = 0; g < groups; ++g) {
          float* const to = out + g * w.sum_group + v * R * W;
          F c[R][n()] = {};
          if (k) {
            float f[R];
            put_rows(f, factor[g]);
            get(c, to);
            for (int r = 0; r < R; ++r)
              for (int j = 0; j < n(); ++j) c[r][j] = c[r][j] * f[r];
          }
          multiply<pack>(c, scores + g * score_group, values + v * w.right_column + k / pack * W, w.right_column,
                         ceil_div(count, pack));
          put(c, to);
        }
      });
    }
    float tops[kQueries], norms[kQueries];
    for (int64_t g = 0; g < groups; ++g) put_rows(tops + g * R, top[g]), put_rows(norms + g * R, 1.0f / sum[g]);
    unpack<T>(a.out, q, rows, a.depth, out, norms);
    if (a.stats) {
      memcpy(a.stats + q, tops, sizeof(float) * rows);
      memcpy(a.stats + a.queries + q, norms, sizeof(float) * rows);
    }
  }
  return 0;
}

// With the weights of the forward pass, p = 2^(log2(e) scale query key^T - top) norm:
//   dvalue = p^T dout     ds = scale p (dout value^T - delta)     delta = the sum of dout out over a row
//   dquery = ds key       dkey = ds^T query
// The norm is left out of the weights; numbers of a row have it instead: `factor` for ds, dout for dvalue.
template <typename T>
int64_t attention_backward(const AttentionBackward& a, float* work) {
  constexpr int pack = pack_of<T>;
  Layout<T> w(a, work);
  const int64_t block = ceil_div(std::min(kQueriesBackward, a.queries), R);
  const int64_t weight_group = std::min(ceil_div(w.vectors, 2) * 2 * W, kKeysBackward) * R / pack;
  float* const keys_turned = w.take(w.vectors * w.turned_column);
  float* const values_turned = w.take(w.vectors * w.turned_column);
  float* const keys = w.take(w.columns * w.right_column);
  float* const queries_left = w.take(block * w.left_group);
  float* const dout_left = w.take(block * w.left_group);
  float* const queries = w.take(block * w.sum_group / pack);
  float* const dout = w.take(block * w.sum_group / pack);
  float* const weights = w.take(block * weight_group);
  float* const dscores = w.take(block * weight_group);  // a lane is of one query, or of two; and of one key, or of two:
  float* const dscores_left = pack == 1 ? dscores : w.take(block * weight_group);
  float* const dquery = w.take(block * w.sum_group);
  float* const dkey = w.take(ceil_div(a.keys, R) * w.sum_group);
  float* const dvalue = w.take(ceil_div(a.keys, R) * w.sum_group);
  if (!work) return w.end - work;

  const F scale = set(a.scale * kLog2e);
  pack_right_turned<pack, T>(keys_turned, a.key, a.keys, a.depth);
  pack_right_turned<pack, T>(values_turned, a.value, a.keys, a.depth);
  pack_right<pack, T>(keys, a.key, 0, a.keys, a.depth);
  for (int64_t q = 0; q < a.queries; q += kQueriesBackward) {
    const int64_t rows = std::min(kQueriesBackward, a.queries - q), groups = ceil_div(rows, R);
    const int64_t column = ceil_div(rows, pack) * W;
    const float* const norm = a.stats + a.queries + q;
    pack_left<pack, T>(queries_left, a.query, q, rows, a.depth);
    pack_left<pack, T>(dout_left, a.dout, q, rows, a.depth);
    pack_right<pack, T>(queries, a.query, q, rows, a.depth);
    pack_right<pack, T>(dout, a.dout, q, rows, a.depth, norm);
    float shift[kQueriesBackward] = {}, factor[kQueriesBackward] = {}, rest[kQueriesBackward];  // zero where no row is
    for (int64_t g = 0; g < groups; ++g) {
      F delta[R] = {};
      for (int r = 0; r < R && g * R + r < rows; ++r)
        for (int64_t k = 0; k < a.depth; k += W)
          delta[r] = fma(lanes_of<1>(row_of<T>(a.dout, q + g * R + r) + k, a.depth - k),
                         lanes_of<1>(row_of<T>(a.out, q + g * R + r) + k, a.depth - k), delta[r]);
      put_rows(rest + g * R, join_rows<Sum>(delta));
    }
    for (int64_t i = 0; i < rows; ++i) shift[i] = -a.stats[q + i], factor[i] = norm[i] * a.scale;
    for (int64_t i = 0; i < groups * R; ++i) rest[i] *= -factor[i];

    for (int64_t k = 0; k < a.keys; k += kKeysBackward) {
      const int64_t count = std::min(kKeysBackward, a.keys - k);
      by_vectors(ceil_div(count, W), [&](int64_t v, auto n) __attribute__((always_inline)) {
        const int64_t first = (k / W + v) * w.turned_column;
        for (int64_t g = 0; g < groups; ++g) {
          F p[R][n()] = {}, ds[R][n()] = {};
          multiply<pack>(p, queries_left + g * w.left_group, keys_turned + first, w.turned_column, w.lanes);
          if ((v + n()) * W > count)
            for (int r = 0; r < R; ++r) p[r][n() - 1] = masked(p[r][n() - 1], count - (v + n() - 1) * W);
          for (int r = 0; r < R; ++r)
            for (int j = 0; j < n(); ++j) p[r][j] = power<pack>(fma(p[r][j], scale, set(shift[g * R + r])));
          multiply<pack>(ds, dout_left + g * w.left_group, values_turned + first, w.turned_column, w.lanes);
          for (int r = 0; r < R; ++r)
            for (int j = 0; j < n(); ++j)
              ds[r][j] = p[r][j] * fma(ds[r][j], set(factor[g * R + r]), set(rest[g * R + r]));
          const int64_t to = g * weight_group + v * R / pack * W;
          if constexpr (pack == 1) {
            put(p, weights + to);
            put(ds, dscores + to);
          } else {
            put_paired(p, weights + to);
            put_paired(ds, dscores + to);
            for (int r = 0; r < R; ++r)
              store(dscores_left + to + r * W, consecutive(ds[r][0], n() == 2 ? ds[r][n() - 1] : F{}));
          }
        }
      });
      by_vectors(w.columns, [&](int64_t v, auto n) __attribute__((always_inline)) {
        const auto add_to = [&](float* sum, bool first, const auto& product) __attribute__((always_inline)) {
          F c[R][n()] = {};
          if (!first) get(c, sum);
          product(c);
          put(c, sum);
        };
        for (int64_t g = 0; g < groups; ++g)
          add_to(dquery + g * w.sum_group + v * R * W, k == 0, [&](auto& c) __attribute__((always_inline)) {
            multiply<pack>(c, dscores_left + g * weight_group, keys + v * w.right_column + k / pack * W,
                           w.right_column, ceil_div(count, pack));
          });
        for (int64_t i = 0; i < count; i += R) {
          const int64_t from = i / W * (R / pack) * W + i % W, to = (k + i) / R * w.sum_group + v * R * W;
          add_to(dkey + to, q == 0, [&](auto& c) __attribute__((always_inline)) {
            multiply_turned<pack>(c, dscores + from, weight_group, queries + v * column, column, column / W);
          });
          add_to(dvalue + to, q == 0, [&](auto& c) __attribute__((always_inline)) {
            multiply_turned<pack>(c, weights + from, weight_group, dout + v * column, column, column / W);
          });
        }
      });
    }
    unpack<T>(a.dquery, q, rows, a.depth, dquery);
  }
  unpack<T>(a.dkey, 0, a.keys, a.depth, dkey);
  unpack<T>(a.dvalue, 0, a.keys, a.depth, dvalue);
  return 0;
}

}  // namespace panels
