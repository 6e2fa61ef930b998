// Affine coupling, one pass over memory, in tiles that stay in the first-level cache: first l = bound tanh(s / bound)
// for a whole tile, then what it scales. (In one loop the long chain of dependent operations, tanh and then exp, leaves
// a third of the arithmetic units' time unused: too few numbers fit into the processor's window.)

constexpr int kTile = 16 * W;  // numbers; a lane adds 16 of them in float32, the sums of tiles are added in double

// A tile is a part of one row, or some short rows.
struct Tiles {
  int pitch, rows;  // numbers from row to row, whole vectors; rows

  explicit Tiles(int64_t n)
      : pitch(int(std::min<int64_t>(n + W - 1, kTile) / W * W)), rows(kTile / std::max(pitch, W)) {}
};

// Whole vectors while there are W numbers or more, then the rest.
template <typename T>
FN F load_up_to(const T* p, int n) {
  return n < W ? load(p, n) : load(p);
}

template <bool streamed, typename T>
FN void store_up_to(T* p, F x, int n) {
  n < W ? store(p, x, n) : streamed ? stream(p, x) : store(p, x);
}

// l of n numbers, which are at most a tile's; returns the sum. Both directions call this with the same s, so that what
// the forward one adds to a log-determinant the inverse takes away, to the last bit.
template <typename T>
FN float log_scales(float* l, const T* s, int n, F bound, F rate) {
  F total = {};
  for (int i = 0; i < n; i += W) {
    const F v = bound * tanh(load_up_to(s + i, n - i) * rate);  // 0 behind the end
    store(l + i, v);
    total += v;
  }
  return sum(total);
}

template <bool inverse, bool streamed, typename T>
void couple_rows(const Coupling<T>& c, int64_t begin, int64_t end) {
  alignas(64) float l[kTile];
  const F bound = set(c.bound), rate = set(1.0f / c.bound);
  const Tiles tiles(c.n);
  for (int64_t first = begin; first < end; first += tiles.rows) {
    const int rows = int(std::min<int64_t>(tiles.rows, end - first));
    double logdet[kTile / W] = {};
    for (int64_t at = 0; at < c.n; at += kTile) {
      const int n = int(std::min<int64_t>(kTile, c.n - at));
      for (int r = 0; r < rows; ++r)
        logdet[r] += double(log_scales(l + r * tiles.pitch, c.s[first + r] + at, n, bound, rate));
      for (int r = 0; r < rows; ++r) {
        const T *const x = c.x[first + r] + at, *const t = c.t[first + r] + at;
        T* const y = c.y[first + r] + at;
        for (int i = 0; i < n; i += W) {
          const F v = load_up_to(x + i, n - i), shift = load_up_to(t + i, n - i), scale = load(l + r * tiles.pitch + i);
          store_up_to<streamed>(y + i, inverse ? (v - shift) * exp(-scale) : fma(v, exp(scale), shift), n - i);
        }
      }
    }
    for (int r = 0; r < rows; ++r) c.logdet[first + r] = float(inverse ? -logdet[r] : logdet[r]);
  }
  if (streamed) fence();
}

template <typename T>
void couple(const Coupling<T>& c, int64_t begin, int64_t end) {
  if (c.inverse)
    c.streamed ? couple_rows<true, true>(c, begin, end) : couple_rows<true, false>(c, begin, end);
  else
    c.streamed ? couple_rows<false, true>(c, begin, end) : couple_rows<false, false>(c, begin, end);
}

// From the gradients of y and logdet those of x, s and t: ds = dl (1 - tanh^2), and
//   forward  dx = dy e^l,   dl = dx x + dlogdet,     dt = dy
//   inverse  dx = dy e^-l,  dl = -(dy y + dlogdet),  dt = -dx
template <bool inverse, bool streamed, typename T>
void couple_backward_rows(const CouplingBackward<T>& c, int64_t begin, int64_t end) {
  alignas(64) float l[kTile];
  const F bound = set(c.bound), rate = set(1.0f / c.bound);
  const Tiles tiles(c.n);
  for (int64_t first = begin; first < end; first += tiles.rows) {
    const int rows = int(std::min<int64_t>(tiles.rows, end - first));
    for (int64_t at = 0; at < c.n; at += kTile) {
      const int n = int(std::min<int64_t>(kTile, c.n - at));
      for (int r = 0; r < rows; ++r) log_scales(l + r * tiles.pitch, c.s[first + r] + at, n, bound, rate);
      for (int r = 0; r < rows; ++r) {
        const T *const dy = c.dy[first + r] + at, *const kept = c.kept[first + r] + at;
        T *const dx = c.dx[first + r] + at, *const ds = c.ds[first + r] + at;
        const F dlogdet = set(c.dlogdet[first + r]);
        for (int i = 0; i < n; i += W) {
          const F scale = load(l + r * tiles.pitch + i), tanh = scale * rate, up = load_up_to(dy + i, n - i);
          const F down = up * exp(inverse ? -scale : scale);
          const F dl = fma(inverse ? up : down, load_up_to(kept + i, n - i), dlogdet);
          store_up_to<streamed>(dx + i, down, n - i);
          store_up_to<streamed>(ds + i, (inverse ? -dl : dl) * fma(-tanh, tanh, set(1.0f)), n - i);
          if (inverse) store_up_to<streamed>(c.dt[first + r] + at + i, -down, n - i);
        }
      }
    }
  }
  if (streamed) fence();
}

template <typename T>
void couple_backward(const CouplingBackward<T>& c, int64_t begin, int64_t end) {
  if (c.inverse)
    c.streamed ? couple_backward_rows<true, true>(c, begin, end) : couple_backward_rows<true, false>(c, begin, end);
  else
    c.streamed ? couple_backward_rows<false, true>(c, begin, end) : couple_backward_rows<false, false>(c, begin, end);
}
