// What every kind of vector can do, in terms of the operations of vector.h. No include guard:
// vector.h includes it in each of its namespaces.

FASTMTE_TARGET FASTMTE_INLINE Vector absolute(Vector x) {
  constexpr auto kMantissaAndExponent = sizeof(Scalar) == 4 ? 0x7fffffff : 0x7fffffffffffffff;
  return (Vector)((Bits)x & (Bits{} + kMantissaAndExponent));
}

template <bool kKeepsNan>
FASTMTE_TARGET FASTMTE_INLINE Vector pick_max(Vector a, Vector b) {
  return kKeepsNan ? max_keeping_nan(a, b) : max(a, b);
}

// The largest lane, NaN where one is.
FASTMTE_TARGET FASTMTE_INLINE Scalar largest_lane(Vector x) {
  Scalar largest = x[0];
  for (int lane = 1; lane < kWidth; ++lane)
    if (x[lane] > largest || x[lane] != x[lane]) largest = x[lane];
  return largest;
}

// Rounded to the nearest, ties to even.
FASTMTE_TARGET FASTMTE_INLINE void store(BFloat16* to, Vector x) {
  if constexpr (sizeof(Scalar) == 8) {
    for (int lane = 0; lane < kWidth; ++lane) to[lane] = static_cast<float>(x[lane]);
    return;
  }
  const Bits bits = (Bits)x;
  const Vector rounded = (Vector)(bits + 0x7fff + ((bits >> 16) & 1));
  const Vector nan = (Vector)(Bits{} + 0x7fc00000);
  store_upper_halves(to, (Bits)where_nan(x, nan, rounded));
}

// The first n < kWidth lanes, the others 0. Apart, or the way through memory would become that of
// whole vectors too.
template <typename T>
FASTMTE_TARGET __attribute__((noinline)) Vector load_few(const T* x, int64_t n) {
  T lanes[kWidth] = {};
  if (n > 0) std::memcpy(lanes, x, n * sizeof(T));
  return load(lanes);
}

template <typename T>
FASTMTE_TARGET __attribute__((noinline)) void store_few(T* to, Vector x, int64_t n) {
  T lanes[kWidth];
  store(lanes, x);
  if (n > 0) std::memcpy(to, lanes, n * sizeof(T));
}

// The first n lanes, all where n is at least kWidth; the others are 0.
template <typename T>
FASTMTE_TARGET FASTMTE_INLINE Vector load_first(const T* x, int64_t n) {
  return n >= kWidth ? load(x) : load_few(x, n);
}

template <typename T>
FASTMTE_TARGET FASTMTE_INLINE void store_first(T* to, Vector x, int64_t n) {
  if (n >= kWidth)
    store(to, x);
  else
    store_few(to, x, n);
}

// exp(x) - 1 for x <= 88, to about 1 unit in the last place; NaN where x is.
//
// x = n log 2 + r, |r| <= log(2) / 2, and exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1). The polynomial
// is the minimax fit of (exp(r) - 1 - r) / r^2, 1.4e-8 of exp(r) - 1 at most.
FASTMTE_TARGET FASTMTE_INLINE Vector expm1(Vector x) {
  if constexpr (sizeof(Scalar) == 8) {
    for (int lane = 0; lane < kWidth; ++lane) x[lane] = std::expm1(x[lane]);
    return x;
  } else {
    // Rounds to an integer, and leaves that plus the exponent's bias of 127 in the lowest bits.
    constexpr Scalar kRound = 0x1.8p23f + 127;
    x = max(broadcast(-20), x);  // float32 has nothing between here and -1
    const Vector rounded = fma(x, broadcast(1.44269504f), broadcast(kRound));
    const Vector n = rounded - broadcast(kRound);
    const Vector power = (Vector)((Bits)rounded << (sizeof(Scalar) == 4 ? 23 : 52));
    // log 2 in two parts, the first so short that its product with n is exact.
    const Vector near = fma(n, broadcast(-0.693359375f), x);
    const Vector r = fma(n, broadcast(2.12194440e-4f), near);
    Vector p = fma(broadcast(1.386422315e-3f), r, broadcast(8.366541937e-3f));
    p = fma(p, r, broadcast(4.166750610e-2f));
    p = fma(p, r, broadcast(1.666654348e-1f));
    p = fma(p, r, broadcast(4.999999702e-1f));
    p = fma(p, r * r, r);
    return fma(power, p, power - broadcast(1));
  }
}

// x where x >= 0, exp(x) - 1 below, NaN where x is.
FASTMTE_TARGET FASTMTE_INLINE Vector elu(Vector x) { return where_negative(x, expm1(x), x); }

// max(x, 0), NaN where x is.
FASTMTE_TARGET FASTMTE_INLINE Vector relu(Vector x) { return max(Vector{}, x); }
