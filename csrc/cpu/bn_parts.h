// What the training operators on maps share, for one kind of vector; see each_isa.h.

namespace fastmte::FASTMTE_ISA {
namespace {

constexpr int kMomentVectors = 4;
using Integer = std::conditional_t<sizeof(Scalar) == 4, int32_t, int64_t>;

FASTMTE_TARGET FASTMTE_INLINE Bits all(int64_t value) {
  return Bits{} + static_cast<Integer>(value);
}

FASTMTE_TARGET FASTMTE_INLINE Bits load_index(const uint8_t* from, int64_t n) {
  if (n >= kWidth) return load_bytes(from);
  uint8_t bytes[kWidth] = {};
  std::memcpy(bytes, from, n);
  return load_bytes(bytes);
}

FASTMTE_TARGET FASTMTE_INLINE void store_index(uint8_t* to, Bits index, int64_t n) {
  if (n >= kWidth) return store_bytes(to, index);
  uint8_t bytes[kWidth];
  store_bytes(bytes, index);
  std::memcpy(to, bytes, n);
}

FASTMTE_TARGET FASTMTE_INLINE Vector choose(Bits mask, Vector yes, Vector no) {
  return mask ? yes : no;
}

FASTMTE_TARGET FASTMTE_INLINE Vector activate(Vector x, Activation activation) {
  if (activation == Activation::kElu) return elu(x);
  return activation == Activation::kRelu ? relu(x) : x;
}

// The gradient before an activation whose result is `out`, as torch has it. The slope of an ELU
// that was rounded to bfloat16 is off by 7e-4 of normal gradients' norm, whose own rounding
// is 1.7e-3.
FASTMTE_TARGET FASTMTE_INLINE Vector through_activation(Vector gradient, Vector out,
                                                        Activation activation) {
  if (activation == Activation::kNone) return gradient;
  const Vector zero{};
  if (activation == Activation::kElu)
    return choose(out <= zero, gradient * (out + broadcast(1)), gradient);
  return choose(out <= zero, zero, gradient);
}

// Rows that are added up in Scalar before their sums join those in float64.
constexpr int64_t kRowsPerSum = 16;

// Adds the first n lanes of x to float64 sums.
FASTMTE_TARGET FASTMTE_INLINE void add_lanes(double* sums, Vector x, int64_t n) {
  Scalar lanes[kWidth];
  store(lanes, x);
  if (n >= kWidth)
    for (int lane = 0; lane < kWidth; ++lane) sums[lane] += lanes[lane];
  else
    for (int lane = 0; lane < n; ++lane) sums[lane] += lanes[lane];
}

// Adds sums of x - origin and of its square over rows of kVectors vectors, n channels in all.
template <int kVectors, typename T>
FASTMTE_TARGET FASTMTE_INLINE void add_moments(const T* x, const T* origin, int64_t n_rows,
                                               int64_t stride, int64_t n, double* sum,
                                               double* square) {
  Vector origins[kVectors], sums[kVectors] = {}, squares[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) origins[v] = load_first(origin + v * kWidth, n - v * kWidth);
  for (int64_t row = 0; row < n_rows; ++row, x += stride)
    for (int v = 0; v < kVectors; ++v) {
      const Vector value = load_first(x + v * kWidth, n - v * kWidth) - origins[v];
      sums[v] += value;
      squares[v] = fma(value, value, squares[v]);
    }
  for (int v = 0; v < kVectors; ++v) {
    add_lanes(sum + v * kWidth, sums[v], n - v * kWidth);
    add_lanes(square + v * kWidth, squares[v], n - v * kWidth);
  }
}

// Mean and sum of squared deviations (C each) of n_rows rows of x (n_rows, C). The first row is the
// origin, so that a mean far from 0 costs no digits.
template <typename T>
FASTMTE_TARGET void moments(const T* x, int64_t n_rows, int64_t channels, double* mean,
                            double* deviations) {
  constexpr int64_t kTile = kMomentVectors * kWidth;
  std::fill_n(mean, channels, 0.0);
  std::fill_n(deviations, channels, 0.0);
  for (int64_t row = 0; row < n_rows; row += kRowsPerSum) {
    const int64_t n_here = std::min(kRowsPerSum, n_rows - row);
    const T* from = x + row * channels;
    int64_t c = 0;
    for (; c + kTile <= channels; c += kTile)
      add_moments<kMomentVectors>(from + c, x + c, n_here, channels, kTile, mean + c,
                                  deviations + c);
    for (; c < channels; c += kWidth)
      add_moments<1>(from + c, x + c, n_here, channels, channels - c, mean + c, deviations + c);
  }
  for (int64_t c = 0; c < channels; ++c) {
    const double total = mean[c];
    mean[c] = static_cast<double>(x[c]) + total / static_cast<double>(n_rows);
    deviations[c] -= total * total / static_cast<double>(n_rows);
  }
}

// Adds kRowsPerSum rows, or fewer, of kVectors vectors of channels, n channels in all.
template <int kVectors, Activation kActivation, typename T>
FASTMTE_TARGET FASTMTE_INLINE void add_gradients(const T* gradient, const T* x, const T* out,
                                                 int64_t n_rows, int64_t channels, int64_t n,
                                                 const Scalar* mean, double* sums,
                                                 double* products) {
  Vector origin[kVectors], sum[kVectors] = {}, product[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) origin[v] = load_first(mean + v * kWidth, n - v * kWidth);
  for (int64_t at = 0; at < n_rows * channels; at += channels)
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = at + v * kWidth, n_here = n - v * kWidth;
      const Vector g = through_activation(load_first(gradient + i, n_here),
                                          load_first(out + i, n_here), kActivation);
      sum[v] += g;
      product[v] = fma(g, load_first(x + i, n_here) - origin[v], product[v]);
    }
  for (int v = 0; v < kVectors; ++v) {
    add_lanes(sums + v * kWidth, sum[v], n - v * kWidth);
    add_lanes(products + v * kWidth, product[v], n - v * kWidth);
  }
}

template <Activation kActivation, typename T>
FASTMTE_TARGET void gradient_sums_of(const T* gradient, const T* x, const T* out, int64_t n_rows,
                                     int64_t channels, const Scalar* mean, double* sums) {
  constexpr int64_t kTile = kMomentVectors * kWidth;
  for (int64_t row = 0; row < n_rows; row += kRowsPerSum) {
    const int64_t n_here = std::min(kRowsPerSum, n_rows - row), at = row * channels;
    int64_t c = 0;
    for (; c + kTile <= channels; c += kTile)
      add_gradients<kMomentVectors, kActivation>(gradient + at + c, x + at + c, out + at + c,
                                                 n_here, channels, kTile, mean + c, sums + c,
                                                 sums + channels + c);
    for (; c < channels; c += kWidth)
      add_gradients<1, kActivation>(gradient + at + c, x + at + c, out + at + c, n_here, channels,
                                    channels - c, mean + c, sums + c, sums + channels + c);
  }
}

// Sums over rows (n_rows, C) of g and of g (x - mean), g being the gradient before the activation.
template <typename T>
FASTMTE_TARGET void gradient_sums(const T* gradient, const T* x, const T* out, int64_t n_rows,
                                  int64_t channels, const Scalar* mean, Activation activation,
                                  double* sums) {
  const auto add = activation == Activation::kRelu  ? gradient_sums_of<Activation::kRelu, T>
                   : activation == Activation::kElu ? gradient_sums_of<Activation::kElu, T>
                                                    : gradient_sums_of<Activation::kNone, T>;
  add(gradient, x, out, n_rows, channels, mean, sums);
}

// What normalises a vector of channels.
struct NormVectors {
  Vector mean, gain, bias;
};

// Of n channels from c on.
FASTMTE_TARGET FASTMTE_INLINE NormVectors norm_at(const Affine<Scalar>& affine, int64_t c,
                                                  int64_t n) {
  return {load_first(affine.mean + c, n), load_first(affine.gain + c, n),
          load_first(affine.bias + c, n)};
}

FASTMTE_TARGET FASTMTE_INLINE Vector normalise(const NormVectors& norm, Vector x) {
  return fma(x - norm.mean, norm.gain, norm.bias);
}

// What the input gradient of a vector of channels is made with.
struct InputVectors {
  Vector mean, of_gradient, of_x, constant;
};

// Of n channels from c on.
FASTMTE_TARGET FASTMTE_INLINE InputVectors input_at(const InputGradient<Scalar>& to, int64_t c,
                                                    int64_t n) {
  return {load_first(to.mean + c, n), load_first(to.of_gradient + c, n), load_first(to.of_x + c, n),
          load_first(to.constant + c, n)};
}

// g is the gradient of the norm's output.
FASTMTE_TARGET FASTMTE_INLINE Vector input_gradient(const InputVectors& to, Vector g, Vector x) {
  return fma(g, to.of_gradient, fma(x - to.mean, to.of_x, to.constant));
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
