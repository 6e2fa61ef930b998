// LayerNorm, modulation and gated residual of a DiT block: what is read from memory is read once, what is read again is
// in the first-level cache by then.
//
// Four rows go together: the vectors of scale, shift and gate are loaded once for the four, and the four sums are under
// way at a time. A row's arithmetic is the same alone and among four, so that no split of the rows changes a bit.

// What a vector holds of a row: all its lanes, or the first `int` of them.
struct Whole {};
template <typename T>
FN F load(const T* p, Whole) {
  return load(p);
}
template <typename T>
FN void store(T* p, F x, Whole) {
  store(p, x);
}
FN F keep(F x, Whole) { return x; }
FN F keep(F x, int n) {
  I lane;
  for (int i = 0; i < W; ++i) lane[i] = i;
  return lane < n ? x : F{};
}

// Calls step(i, lanes) for the vectors of a row of n.
template <typename Step>
FN void for_vectors(int64_t n, const Step& step) {
  int64_t i = 0;
  for (; i + W <= n; i += W) step(i, Whole{});
  if (i < n) step(i, int(n - i));
}

template <bool streamed, typename T, typename Lanes>
FN void put(T* p, F x, Lanes lanes) {
  if constexpr (streamed && std::is_same_v<Lanes, Whole>)
    stream(p, x);
  else
    store(p, x, lanes);
}

// Whether rows of `width` from here on are made of vectors that `stream` can store. True for null.
template <typename T>
FN bool aligned(const T* p, int64_t width) {
  return width % W == 0 && uintptr_t(p) % (W * sizeof(T)) == 0;
}

// The prefetcher of the CPU stops where the loads do, and here they stop while rows are worked on in the cache. So every
// step asks for what is kAhead bytes further on in each of its tensors, which may be beyond the end, as a prefetch cannot
// fail; the passes over the rows share the tensors, so that memory is busy all the time. Into the second-level cache: on
// a Zen 4 the same requests to the first level took 1.3 to 1.9 times as long (x + gate y and its norm, backward), since
// that waits for few lines at a time. kAhead: of 6 to 36 KB the differences are within 10%.
constexpr uintptr_t kAhead = 16 << 10;

template <typename T>
FN void ask(const T* p) {
  __builtin_prefetch((const void*)(uintptr_t(p) + kAhead), 0, 2);
}

// K rows from row r on, all of one sample. rows: room for K rows of float32.
template <typename R, typename C, bool gated, bool streamed, int K>
FN void adaln_block(const Adaln& a, int64_t r, float* rows) {
  const int64_t n = a.width, vector = r / a.tokens * n;
  const float *const gate = a.gate + vector, *const shift = a.shift + vector, *const scale = a.scale + vector;
  const R* const x = (const R*)a.x + r * n;
  const C* const y = (const C*)a.y + r * n;
  R* const h = (R*)a.h + r * n;
  C* const out = (C*)a.out + r * n;
  float* const stats = a.stats + 2 * r;
  constexpr bool copied = gated || std::is_same_v<R, bfloat>;  // the rest reads float32 in `rows`, else x itself
  const int64_t stride = copied ? (n + W - 1) / W * W : n;
  const auto row = [&](int k, int64_t i, auto lanes) { return load((copied ? rows : (const float*)x) + k * stride + i, lanes); };
  const auto ask_further = [&](int k, int64_t i) {
    ask(x + k * n + i);
    if (gated) ask(y + k * n + i);
  };

  F total[K] = {};
  for_vectors(n, [&](int64_t i, auto lanes) {
    const F g = gated ? load(gate + i, lanes) : F{};
    for (int k = 0; k < K; ++k) {
      F v = load(x + k * n + i, lanes);
      if (gated) {
        v = fma(g, load(y + k * n + i, lanes), v);
        if (std::is_same_v<R, bfloat>) v = widen(narrow(v));  // the norm is that of the h that is stored
        put<streamed>(h + k * n + i, v, lanes);
      }
      if (copied) store(rows + k * stride + i, v, lanes);
      total[k] += v;
    }
  });
  F mean[K], square[K] = {}, rstd[K];
  for (int k = 0; k < K; ++k) mean[k] = set(stats[2 * k] = sum(total[k]) / float(n));
  // the mean first, then the squares of what is left: no difference of large numbers
  for_vectors(n, [&](int64_t i, auto lanes) {
    for (int k = 0; k < K; ++k) {
      if (k < K / 2) ask_further(k, i);
      const F centred = keep(row(k, i, lanes) - mean[k], lanes);
      square[k] = fma(centred, centred, square[k]);
    }
  });
  for (int k = 0; k < K; ++k) rstd[k] = set(stats[2 * k + 1] = 1.0f / std::sqrt(sum(square[k]) / float(n) + a.eps));
  for_vectors(n, [&](int64_t i, auto lanes) {
    const F factor = load(scale + i, lanes) + 1.0f, offset = load(shift + i, lanes);
    for (int k = 0; k < K; ++k) {
      if (k >= K / 2) ask_further(k, i);
      const F normal = (row(k, i, lanes) - mean[k]) * rstd[k];
      put<streamed>(out + k * n + i, fma(normal, factor, offset), lanes);
    }
  });
}

// h alone.
template <typename R, typename C, bool streamed>
FN void gate_row(const Adaln& a, int64_t r) {
  const int64_t n = a.width;
  const float* const gate = a.gate + r / a.tokens * n;
  const R* const x = (const R*)a.x + r * n;
  const C* const y = (const C*)a.y + r * n;
  R* const h = (R*)a.h + r * n;
  for_vectors(n, [&](int64_t i, auto lanes) {
    put<streamed>(h + i, fma(load(gate + i, lanes), load(y + i, lanes), load(x + i, lanes)), lanes);
  });
}

template <typename R, typename C, bool streamed>
void adaln_rows(const Adaln& a, int64_t begin, int64_t end, float* rows) {
  const auto blocks = [&](auto gated) {
    for (int64_t r = begin; r < end;) {
      const int64_t last = std::min(end, (r / a.tokens + 1) * a.tokens);  // of this sample
      for (; r + kAdalnRows <= last; r += kAdalnRows) adaln_block<R, C, gated, streamed, kAdalnRows>(a, r, rows);
      for (; r < last; ++r) adaln_block<R, C, gated, streamed, 1>(a, r, rows);
    }
  };
  if (!a.out)
    for (int64_t r = begin; r < end; ++r) gate_row<R, C, streamed>(a, r);
  else if (a.y)
    blocks(std::true_type{});
  else
    blocks(std::false_type{});
  if (streamed) fence();
}

template <typename R, typename C>
void adaln(const Adaln& a, int64_t begin, int64_t end, float* rows) {
  const bool streamed = a.stream && aligned((R*)a.h, a.width) && aligned((C*)a.out, a.width);
  (streamed ? adaln_rows<R, C, true> : adaln_rows<R, C, false>)(a, begin, end, rows);
}

// K rows from row r on, all of one sample, whose sums they are added to.
template <typename R, typename C, bool carried, bool gated, bool streamed, int K>
FN void backward_block(const AdalnBackward& a, int64_t r, const AdalnSums& sums) {
  const int64_t n = a.width, vector = r / a.tokens * n;
  const float *const gate = a.gate + vector, *const scale = a.scale + vector, *const stats = a.stats + 2 * r;
  const R *const dh = (const R*)a.dh + r * n, *const h = (const R*)a.h + r * n;
  const C *const dout = (const C*)a.dout + r * n, *const y = (const C*)a.y + r * n;
  R* const dx = (R*)a.dx + r * n;
  C* const dy = (C*)a.dy + r * n;

  F mean[K], rstd[K], g_sum[K] = {}, gn_sum[K] = {};
  for (int k = 0; k < K; ++k) mean[k] = set(stats[2 * k]), rstd[k] = set(stats[2 * k + 1]);
  for_vectors(n, [&](int64_t i, auto lanes) {
    const F factor = load(scale + i, lanes) + 1.0f;
    F dshift = load(sums.dshift + i, lanes), dscale = load(sums.dscale + i, lanes);
    for (int k = 0; k < K; ++k) {
      ask(h + k * n + i);
      if (gated) ask(y + k * n + i);
      const F normal = (load(h + k * n + i, lanes) - mean[k]) * rstd[k];
      const F d = load(dout + k * n + i, lanes), g = d * factor;  // 0 in lanes beyond the row, so the sums are right
      dshift += d;
      dscale = fma(d, normal, dscale);
      g_sum[k] += g;
      gn_sum[k] = fma(g, normal, gn_sum[k]);
    }
    store(sums.dshift + i, dshift, lanes);
    store(sums.dscale + i, dscale, lanes);
  });
  // dx = dh + rstd (g - level - slope (h - mean)): like numbers are subtracted first, so that what cancels does so exactly
  F level[K], slope[K];
  for (int k = 0; k < K; ++k) {
    level[k] = set(sum(g_sum[k]) / float(n));
    slope[k] = rstd[k] * set(-sum(gn_sum[k]) / float(n));
  }
  for_vectors(n, [&](int64_t i, auto lanes) {
    const F factor = load(scale + i, lanes) + 1.0f;
    const F open = gated ? load(gate + i, lanes) : F{};
    F dgate = gated ? load(sums.dgate + i, lanes) : F{};
    for (int k = 0; k < K; ++k) {
      ask(dout + k * n + i);
      if (carried) ask(dh + k * n + i);
      const F g = load(dout + k * n + i, lanes) * factor;
      F d = fma(load(h + k * n + i, lanes) - mean[k], slope[k], g - level[k]);
      d = carried ? fma(d, rstd[k], load(dh + k * n + i, lanes)) : d * rstd[k];
      put<streamed>(dx + k * n + i, d, lanes);
      if (gated) {
        put<streamed>(dy + k * n + i, d * open, lanes);
        dgate = fma(d, load(y + k * n + i, lanes), dgate);
      }
    }
    if (gated) store(sums.dgate + i, dgate, lanes);
  });
}

// dy and dgate alone, where dx is dh.
template <typename R, typename C, bool streamed, int K>
FN void gate_backward_block(const AdalnBackward& a, int64_t r, const AdalnSums& sums) {
  const int64_t n = a.width;
  const float* const gate = a.gate + r / a.tokens * n;
  const R* const dh = (const R*)a.dh + r * n;
  const C* const y = (const C*)a.y + r * n;
  C* const dy = (C*)a.dy + r * n;
  for_vectors(n, [&](int64_t i, auto lanes) {
    const F open = load(gate + i, lanes);
    F dgate = load(sums.dgate + i, lanes);
    for (int k = 0; k < K; ++k) {
      const F d = load(dh + k * n + i, lanes);
      put<streamed>(dy + k * n + i, d * open, lanes);
      dgate = fma(d, load(y + k * n + i, lanes), dgate);
    }
    store(sums.dgate + i, dgate, lanes);
  });
}

template <typename R, typename C, bool streamed>
void backward_rows(const AdalnBackward& a, int64_t begin, int64_t end, const AdalnSums& sums) {
  for (float* s : {sums.dshift, sums.dscale, sums.dgate})
    if (s) std::fill(s, s + a.width, 0.0f);
  const auto blocks = [&](auto carried, auto gated) {
    int64_t r = begin;
    for (; r + kAdalnRows <= end; r += kAdalnRows) backward_block<R, C, carried, gated, streamed, kAdalnRows>(a, r, sums);
    for (; r < end; ++r) backward_block<R, C, carried, gated, streamed, 1>(a, r, sums);
  };
  const std::true_type yes;
  const std::false_type no;
  if (!a.dout) {
    int64_t r = begin;
    for (; r + kAdalnRows <= end; r += kAdalnRows) gate_backward_block<R, C, streamed, kAdalnRows>(a, r, sums);
    for (; r < end; ++r) gate_backward_block<R, C, streamed, 1>(a, r, sums);
  } else if (a.y && a.dh) {
    blocks(yes, yes);
  } else if (a.y) {
    blocks(no, yes);
  } else if (a.dh) {
    blocks(yes, no);
  } else {
    blocks(no, no);
  }
  if (streamed) fence();
}

template <typename R, typename C>
void adaln_backward(const AdalnBackward& a, int64_t begin, int64_t end, const AdalnSums& sums) {
  const bool streamed = a.stream && aligned((R*)a.dx, a.width) && aligned((C*)a.dy, a.width);
  (streamed ? backward_rows<R, C, true> : backward_rows<R, C, false>)(a, begin, end, sums);
}
