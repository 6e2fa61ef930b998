// Products of small matrices that were packed for it, and the packing.
//
// A lane of a packed matrix holds one number of the contraction or, where the CPU multiplies pairs of bfloat16 numbers
// (`pack` = 2), two. Whichever it is, the lanes lie alike:
//   left   [group of R rows][vector along the contraction][R][W]     read one lane at a time
//   right  [vector of columns][contraction][W]                       read one vector at a time
//   sum    [group of R rows][vector of columns][R][W]                float
//
// R and N: rows and vectors of columns of a product that are summed in registers, as many as hide the latency of a sum
// and take fewer loads than sums. Measured: 8 x 2 of 32 registers; 4 x 3 of 16 (4 x 2 is 7% slower); 4 x 2 of 16 where
// there is no fused multiply-add, which takes one more (4 x 3 is 20% slower). R divides W.
namespace panels {

constexpr int R = W == 16 ? 8 : 4;
constexpr int N = W == 8 ? 3 : 2;

template <typename T>
constexpr int pack_of = 1;
#ifdef GENSYS_BF16
template <>
constexpr int pack_of<bfloat> = 2;
#endif

inline int64_t ceil_div(int64_t n, int64_t m) { return (n + m - 1) / m; }

// use(first, how many) for `count` vectors, N at a time while there are as many.
template <typename Use>
FN void by_vectors(int64_t count, const Use& use) {
  int64_t i = 0;
  for (; i + N <= count; i += N) use(i, std::integral_constant<int, N>{});
  if constexpr (N > 2)
    for (; i + 2 <= count; i += 2) use(i, std::integral_constant<int, 2>{});
  for (; i < count; ++i) use(i, std::integral_constant<int, 1>{});
}

// --- products

// a b + c for every lane, or for both numbers of a lane.
template <int pack>
FN F product(F a, F b, F c) {
#ifdef GENSYS_BF16
  if constexpr (pack == 2) return _mm512_dpbf16_ps(c, __m512bh(a), __m512bh(b));
#endif
  return fma(a, b, c);
}

// c[r][j] += the sum over k < depth of left(r, k) right(k, j). The left's rows are `row` apart, its lanes `step`;
// after `count` of them the next ones are `next` after the first. The right's vectors of columns are `column` apart.
template <int pack, int count, int step, int row, int n>
FN void multiply(F (&c)[R][n], const float* left, int64_t next, const float* right, int64_t column, int64_t depth) {
  for (; depth > 0; depth -= count, left += next) {
    const int run = depth < count ? int(depth) : count;
#pragma GCC unroll 1  // or else the compiler, which has no register to spare with AVX2, moves sums to and from memory
    for (int k = 0; k < run; ++k, right += W) {
      F b[n];
      for (int j = 0; j < n; ++j) b[j] = load(right + j * column);
      for (int r = 0; r < R; ++r) {
        const F a = set(left[k * step + r * row]);
        for (int j = 0; j < n; ++j) c[r][j] = product<pack>(a, b[j], c[r][j]);
      }
    }
  }
}

// The rows of one group of a packed left.
template <int pack, int n>
FN void multiply(F (&c)[R][n], const float* left, const float* right, int64_t column, int64_t depth) {
  multiply<pack, W, 1, W>(c, left, R * W, right, column, depth);
}

// R columns of a left, from this lane on, as rows. Its rows are the contraction: a lane is of one row, or of two, so
// that its groups, `group` apart, have R / pack vectors for every vector of columns.
template <int pack, int n>
FN void multiply_turned(F (&c)[R][n], const float* left, int64_t group, const float* right, int64_t column,
                        int64_t depth) {
  multiply<pack, R / pack, W, 1>(c, left, group, right, column, depth);
}

template <int n>
FN void get(F (&c)[R][n], const float* p) {
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < n; ++j) c[r][j] = load(p + (j * R + r) * W);
}

template <int n>
FN void put(const F (&c)[R][n], float* p) {
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < n; ++j) store(p + (j * R + r) * W, c[r][j]);
}

// --- packing: rows first .. first + rows of x, of which `depth` numbers count. What is beyond them is zero.

template <typename T>
FN T* row_of(const Matrix& x, int64_t i) {
  return static_cast<T*>(x.data) + i * x.stride;
}

// n numbers, or as many as fill the lanes of a vector.
template <int pack, typename T>
FN F lanes_of(const T* p, int64_t n) {
  if constexpr (pack == 1) {
    return n >= W ? load(p) : load(p, int(n));
  } else {
    F x = {};
    n >= 2 * W ? memcpy(&x, p, sizeof x) : memcpy(&x, p, sizeof(T) * n);
    return x;
  }
}

// Lanes of one number of each vector, rounded to bfloat16; and lanes of two neighbours in the one and then the other.
FN F paired(F low, F high) {
  typedef uint32_t U __attribute__((vector_size(GENSYS_BYTES)));
  return F(U(widen(narrow(low))) >> 16 | U(widen(narrow(high))));
}

FN F consecutive(F low, F high) {
#ifdef GENSYS_BF16
  return F(_mm512_cvtne2ps_pbh(high, low));
#else
  return paired(low, high);  // is never called: there are no lanes of two
#endif
}

// A product as a left whose rows are the contraction, two in a lane.
template <int n>
FN void put_paired(const F (&c)[R][n], float* p) {
  for (int j = 0; j < n; ++j)
    for (int r = 0; r < R; r += 2) store(p + (j * R + r) / 2 * W, paired(c[r][j], c[r + 1][j]));
}

template <int pack, typename T>
void pack_left(float* to, const Matrix& x, int64_t first, int64_t rows, int64_t depth) {
  for (int64_t g = 0; g < rows; g += R)
    for (int64_t k = 0; k < depth; k += W * pack)
      for (int r = 0; r < R; ++r, to += W)
        store(to, g + r < rows ? lanes_of<pack>(row_of<T>(x, first + g + r) + k, depth - k) : F{});
}

// The rows as the contraction. Each is multiplied by a number of `scale`, if that is not null.
template <int pack, typename T>
void pack_right(float* to, const Matrix& x, int64_t first, int64_t rows, int64_t depth, const float* scale = nullptr) {
  const int64_t column = ceil_div(rows, pack) * W;
  for (int64_t i = 0; i < rows; i += pack, to += W)
    for (int64_t k = 0; k < depth; k += W) {
      F part[2] = {};
      for (int h = 0; h < pack && i + h < rows; ++h) {
        part[h] = lanes_of<1>(row_of<T>(x, first + i + h) + k, depth - k);
        if (scale) part[h] = part[h] * scale[i + h];
      }
      store(to + k / W * column, pack == 2 ? paired(part[0], part[1]) : part[0]);
    }
}

using Lanes = std::make_index_sequence<W>;

template <bool high, size_t... i>
FN F riffle(F a, F b, std::index_sequence<i...>) {  // a lane of one, a lane of the other, of the lower or upper halves
  return __builtin_shufflevector(a, b, (high * W / 2 + i / 2 + i % 2 * W)...);
}

FN void transpose(F (&x)[W]) {
  for (int n = W; n > 1; n /= 2) {  // each time around, an index of W W moves by one binary digit
    F y[W];
    for (int i = 0; i < W / 2; ++i) {
      y[2 * i] = riffle<false>(x[i], x[i + W / 2], Lanes{});
      y[2 * i + 1] = riffle<true>(x[i], x[i + W / 2], Lanes{});
    }
    for (int i = 0; i < W; ++i) x[i] = y[i];
  }
}

// The rows as columns.
template <int pack, typename T>
void pack_right_turned(float* to, const Matrix& x, int64_t rows, int64_t depth) {
  for (int64_t i = 0; i < rows; i += W)
    for (int64_t k = 0; k < depth; k += W * pack) {
      F block[W];
      for (int r = 0; r < W; ++r) block[r] = i + r < rows ? lanes_of<pack>(row_of<T>(x, i + r) + k, depth - k) : F{};
      transpose(block);
      const int64_t n = std::min<int64_t>(W, ceil_div(depth - k, pack));
      for (int64_t j = 0; j < n; ++j, to += W) store(to, block[j]);
    }
}

// A sum to rows, each multiplied by a number of `scale`, if that is not null.
template <typename T>
void unpack(const Matrix& x, int64_t first, int64_t rows, int64_t depth, const float* from,
            const float* scale = nullptr) {
  for (int64_t g = 0; g < rows; g += R, from += ceil_div(depth, W) * R * W)
    for (int r = 0; r < R && g + r < rows; ++r)
      for (int64_t k = 0; k < depth; k += W) {
        F y = load(from + k * R + r * W);
        if (scale) y = y * scale[g + r];
        T* const to = row_of<T>(x, first + g + r) + k;
        depth - k >= W ? store(to, y) : store(to, y, int(depth - k));
      }
}

// --- numbers of R rows: that of row r is in the lanes from r W / R on

template <int size, bool high, size_t... i>
FN F halves(F a, F b, std::index_sequence<i...>) {  // lower or upper halves of blocks of `size` lanes of a, then of b
  constexpr int h = size / 2, blocks = W / size;
  return __builtin_shufflevector(a, b, (i / h % blocks * size + i / h / blocks * W + high * h + i % h)...);
}

template <size_t... i>
FN F neighbours(F a, std::index_sequence<i...>) {
  return __builtin_shufflevector(a, a, (i ^ 1)...);
}

struct Sum {
  FN F operator()(F a, F b) const { return a + b; }
};

struct Max {
  FN F operator()(F a, F b) const { return max(a, b); }
};

// Joins all lanes of each of the vectors x: halves onto each other, two vectors into one.
template <typename Join, int size = W, int rows = R>
FN F join_rows(const F* x) {
  constexpr Join join;
  if constexpr (rows > 1) {
    F y[rows / 2];
    for (int i = 0; i < rows / 2; ++i)
      y[i] = join(halves<size, false>(x[2 * i], x[2 * i + 1], Lanes{}),
                  halves<size, true>(x[2 * i], x[2 * i + 1], Lanes{}));
    return join_rows<Join, size / 2, rows / 2>(y);
  } else if constexpr (size == 2) {
    return join(x[0], neighbours(x[0], Lanes{}));
  } else {
    static_assert(size == 1);
    return x[0];
  }
}

FN void put_rows(float* to, F x) {  // R floats
  float lanes[W];
  store(lanes, x);
  for (int r = 0; r < R; ++r) to[r] = lanes[r * (W / R)];
}

}  // namespace panels
