// The ceiling of the compute-bound kernels: multiply-adds of registers and nothing else. Both functions return how many
// floating-point operations they did.

// A multiply-add takes four to six cycles and two start in each one: 14 chains that do not wait for each other keep the
// units busy, and fit into the 16 registers of the older instruction sets.
constexpr int kChains = 14;

// A chain is a <- a / 2 + 1 / 2, which tends to 1: no overflow, and no subnormal numbers, which would be slow. Each
// begins elsewhere, or the compiler would see that they are all one.
double multiply_adds(int64_t loops) {
  F chain[kChains];
  for (int j = 0; j < kChains; ++j) chain[j] = set(float(j));
  const F half = set(0.5f);
  for (int64_t i = 0; i < loops; ++i)
    for (int j = 0; j < kChains; ++j) chain[j] = fma(chain[j], half, half);
  F total = {};
  for (int j = 0; j < kChains; ++j) total = total + chain[j];
  volatile float used = sum(total);  // or the loop would be removed
  (void)used;
  return 2.0 * W * kChains * double(loops);
}

// Products of pairs of bfloat16, summed in float32; 0 operations where there is no instruction for it.
double dot_products(int64_t loops) {
#ifdef GENSYS_BF16
  __m512 chain[kChains];
  for (int j = 0; j < kChains; ++j) chain[j] = _mm512_set1_ps(float(j));
  const __m512bh tiny = __m512bh(_mm512_set1_epi16(0x2000));  // 2^-64, bfloat16: its square is not subnormal
  for (int64_t i = 0; i < loops; ++i)
    for (int j = 0; j < kChains; ++j) chain[j] = _mm512_dpbf16_ps(chain[j], tiny, tiny);
  F total = {};
  for (int j = 0; j < kChains; ++j) total = total + F(chain[j]);
  volatile float used = sum(total);
  (void)used;
  return 4.0 * W * kChains * double(loops);
#else
  (void)loops;
  return 0.0;
#endif
}
