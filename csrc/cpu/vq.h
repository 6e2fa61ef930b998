// The nearest code of every row: a matrix product whose entries are compared in registers and never stored.
//
// A lane is a row of x. A tile is kVqRows vectors of rows times kVqCodes codes: the rows are transposed first, once for
// all codes, and a code is read where it lies, one number at a time, spread over the lanes. So the codebook needs no
// packed copy (nothing to keep, nothing that can go stale), the best code so far is one comparison per sum in its own
// lane, and rows never meet: neither the split into tiles nor the number of threads can change a result.

constexpr int kVqRows = 3;  // vectors; 3 x 4 sums, 3 vectors of rows and a code are the 16 registers of AVX2
#if defined(__x86_64__) && GENSYS_BYTES == 16
constexpr int kVqCodes = 3;  // SSE2 has as many, but no fused multiply-add: it needs one for the product
#else
constexpr int kVqCodes = 4;  // more sums fit AVX-512, but then the best so far does not, and that costs more (measured)
#endif
static_assert(kVqBlock % (kVqRows * W) == 0 && W - 1 <= kVqSpare);

// -|code|^2 / 2. Halved before it is squared, so that it overflows no earlier than it must.
void vq_offsets(float* offsets, const float* codes, int64_t count, int64_t dim) {
  for (int64_t k = 0; k < count; ++k, codes += dim) {
    F total{};
    int64_t d = 0;
    for (; d + W <= dim; d += W) {
      const F e = load(codes + d);
      total = fma(0.5f * e, e, total);
    }
    const F e = load(codes + d, int(dim - d));
    offsets[k] = -sum(fma(0.5f * e, e, total));
  }
}

// Compares `codes` codes from number `first` on with the best so far of R vectors of rows; x: (dim, R, W). The largest
// x . e - |e|^2 / 2 belongs to the nearest code. Every sum starts from the offset and goes in the order of the
// dimensions, so equal codes have equal scores; `>` then keeps the first of them, and passes over NaN.
template <int R, int codes>
FN void vq_tile(const float* x, const Codebook& book, int64_t first, F* best, I* index) {
  const int64_t dim = book.dim;
  const float* e = book.codes + first * dim;
  F score[codes][R];
  for (int c = 0; c < codes; ++c)
    for (int r = 0; r < R; ++r) score[c][r] = set(book.offsets[first + c]);
  for (int64_t d = 0; d < dim; ++d) {
    F rows[R];
    for (int r = 0; r < R; ++r) rows[r] = load(x + (d * R + r) * W);
    for (int c = 0; c < codes; ++c) {
      const F code = set(e[c * dim + d]);
      for (int r = 0; r < R; ++r) score[c][r] = fma(rows[r], code, score[c][r]);
    }
  }
  I number = I{} + int(first);
  for (int c = 0; c < codes; ++c, number += 1)
    for (int r = 0; r < R; ++r) {
      const F better = max(score[c][r], best[r]);
      index[r] = better > best[r] ? number : index[r];
      best[r] = better;
    }
}

// All codes for R vectors of rows.
template <int R>
void vq_strip(int32_t* index, const float* x, const Codebook& book) {
  F best[R];
  I found[R];
  for (int r = 0; r < R; ++r) best[r] = set(-std::numeric_limits<float>::infinity()), found[r] = I{};
  int64_t k = 0;
  for (; k + kVqCodes <= book.count; k += kVqCodes) vq_tile<R, kVqCodes>(x, book, k, best, found);
  if (book.count < kVqCodes)
    for (; k < book.count; ++k) vq_tile<R, 1>(x, book, k, best, found);
  else if (k < book.count)  // the last codes with some before them, which have lost already or are the best so far
    vq_tile<R, kVqCodes>(x, book, book.count - kVqCodes, best, found);
  memcpy(index, found, sizeof found);
}

template <typename T>
float vq_distance(const T* x, const float* code, int64_t dim) {
  F total{};
  int64_t d = 0;
  for (; d + W <= dim; d += W) {
    const F difference = load(x + d) - load(code + d);
    total = fma(difference, difference, total);
  }
  const F difference = load(x + d, int(dim - d)) - load(code + d, int(dim - d));
  return sum(fma(difference, difference, total));
}

// Swaps the blocks of `step` lanes off the diagonal of the 2 x 2 blocks that a and b hold.
template <int step, size_t... lane>
FN void swap_blocks(F& a, F& b, std::index_sequence<lane...>) {
  const F upper = __builtin_shufflevector(a, b, (lane & step ? W + lane - step : lane)...);
  b = __builtin_shufflevector(a, b, (lane & step ? W + lane : lane + step)...);
  a = upper;
}

// W vectors as a matrix, transposed in log2 W rounds.
template <int step = W / 2>
FN void transpose(F* rows) {
  for (int i = 0; i < W; ++i)
    if (!(i & step)) swap_blocks<step>(rows[i], rows[i + step], std::make_index_sequence<W>());
  if constexpr (step > 1) transpose<step / 2>(rows);
}

// W rows of x, from row `first` on (the last row again where there are none left), as (dim, lanes): `out` is a column
// of it. Writes up to W - 1 dimensions more than there are.
template <typename T>
void vq_pack(float* out, int lanes, const T* x, int first, int rows, int64_t dim) {
  const T* from[W];
  for (int l = 0; l < W; ++l) from[l] = x + std::min(first + l, rows - 1) * dim;
  for (int64_t d = 0; d < dim; d += W) {
    F v[W];
    if (d + W <= dim)
      for (int l = 0; l < W; ++l) v[l] = load(from[l] + d);
    else
      for (int l = 0; l < W; ++l) v[l] = load(from[l] + d, int(dim - d));
    transpose(v);
    for (int l = 0; l < W; ++l) store(out + (d + l) * lanes, v[l]);
  }
}

template <typename T>
void vq_nearest(int64_t* index, float* distance, const T* x, int64_t n, const Codebook& book, float* scratch) {
  static constexpr decltype(&vq_strip<1>) by_vectors[] = {vq_strip<1>, vq_strip<2>, vq_strip<3>};
  static_assert(sizeof by_vectors / sizeof by_vectors[0] == kVqRows);
  for (int64_t i = 0; i < n; i += kVqRows * W) {
    const int rows = int(std::min<int64_t>(kVqRows * W, n - i)), vectors = (rows + W - 1) / W;
    for (int r = 0; r < vectors; ++r) vq_pack(scratch + r * W, vectors * W, x + i * book.dim, r * W, rows, book.dim);
    int32_t found[kVqRows * W];
    by_vectors[vectors - 1](found, scratch, book);
    for (int r = 0; r < rows; ++r) {
      index[i + r] = found[r];
      if (distance) distance[i + r] = vq_distance(x + (i + r) * book.dim, book.codes + found[r] * book.dim, book.dim);
    }
  }
}
