// Counter-based noise: the elements of philox.h, a vector of counters at a time. Plain loops, as in combine.h.

template <Quad<float> (*quad_of)(const Row&, uint32_t)>
inline void draw(float* out, const Row& row, uint32_t quad, int n) {
  const int whole = n / 4;
#pragma omp simd
  for (int i = 0; i < whole; ++i) {
    const Quad<float> q = quad_of(row, quad + uint32_t(i));
    out[4 * i] = q.a;
    out[4 * i + 1] = q.b;
    out[4 * i + 2] = q.c;
    out[4 * i + 3] = q.d;
  }
  if (n % 4) {
    const Quad<float> q = quad_of(row, quad + uint32_t(whole));
    const float last[] = {q.a, q.b, q.c};
    for (int i = 4 * whole; i < n; ++i) out[i] = last[i % 4];
  }
}

void uniform(float* out, const Row& row, uint32_t quad, int n) { draw<uniform_quad>(out, row, quad, n); }

void normal(float* out, const Row& row, uint32_t quad, int n) { draw<normal_quad>(out, row, quad, n); }
