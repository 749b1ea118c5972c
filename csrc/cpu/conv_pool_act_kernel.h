// The arithmetic of conv_pool_act for one kind of vector; see each_isa.h.
//
// Some rows of the output at a time: the rows of the input that they need lie between columns of
// zeros in a buffer that the second-level cache holds. The sums of one block of positions and
// channels leave the engine for the first-level cache, where they are pooled and activated while
// the engine makes those of the next block; the map before pooling exists nowhere.

namespace fastmte::FASTMTE_ISA {
namespace {

constexpr int kConvVectors = kConvOutputs / kWidth;
constexpr int64_t kConvSums = kConvPositions * kConvOutputs;  // of one row of a block

FASTMTE_TARGET FASTMTE_INLINE Vector conv_activate(Vector x, Activation activation) {
  if (activation == Activation::kElu) return elu(x);
  return activation == Activation::kRelu ? relu(x) : x;
}

// Windows of one row and block of channels, whose sums are made: pooled, activated and stored one
// by one, some at each step of the engine.
template <typename Engine>
class ConvWindows {
 public:
  ConvWindows(const Conv& conv, int64_t n_steps) : conv_(conv), n_steps_(n_steps) {}

  void begin(const Scalar* sums, int64_t row, int64_t window, int64_t n, int64_t block) {
    const ConvSizes& sizes = conv_.sizes;
    sums_ = sums;
    bias_ = conv_.bias + block * kConvOutputs;
    at_ = (row * sizes.out_columns() + window) * sizes.outputs + block * kConvOutputs;
    n_left_ = n;
    n_a_step_ = (n + n_steps_ - 1) / n_steps_;
  }

  FASTMTE_TARGET void some() {
    for (int64_t i = 0; i < n_a_step_ && n_left_ > 0; ++i) one();
  }

  FASTMTE_TARGET void all() {
    while (n_left_ > 0) one();
  }

 private:
  FASTMTE_TARGET void one() {
    const ConvSizes& sizes = conv_.sizes;
    Vector x[kConvVectors];
    for (int v = 0; v < kConvVectors; ++v) {
      x[v] = largest(v * kWidth) + load(bias_ + v * kWidth);
      if (conv_.onto) x[v] += load(conv_.onto + at_ + v * kWidth);
      x[v] = conv_activate(x[v], conv_.activation);
    }
    Engine::store(conv_.out + at_, x);
    sums_ += sizes.pool_columns * kConvOutputs;
    at_ += sizes.outputs;
    --n_left_;
  }

  FASTMTE_TARGET Vector largest(int lane) const {
    const ConvSizes& sizes = conv_.sizes;
    Vector result = load(sums_ + lane);
    if (sizes.pool_rows * sizes.pool_columns == 1) return result;
    for (int64_t r = 0; r < sizes.pool_rows; ++r)
      for (int64_t i = 0; i < sizes.pool_columns; ++i)
        result = max_keeping_nan(load(sums_ + r * kConvSums + i * kConvOutputs + lane), result);
    return result;
  }

  const Conv& conv_;
  int64_t n_steps_, n_a_step_ = 0, n_left_ = 0, at_ = 0;
  const Scalar* sums_ = nullptr;
  const float* bias_ = nullptr;
};

// Sums of one block of positions and channels by multiply-adds: of pairs of inputs, which lie side
// by side in the weights.
class PlainEngine {
 public:
  explicit PlainEngine(const ConvSizes& sizes) : sizes_(sizes) {}

  // rows: kernel_rows of the input, from their padding on. `meanwhile` has work for each step.
  template <typename Work>
  FASTMTE_TARGET void sums(const BFloat16* const* rows, int64_t column, int64_t n_columns,
                           const BFloat16* weight, Scalar* sums, Work& /* meanwhile */) {
    for (int64_t i = 0; i < n_columns; ++i)
      for (int v = 0; v < kConvVectors; ++v)
        fastmte::FASTMTE_ISA::store(sums + i * kConvOutputs + v * kWidth,
                                    one(rows, column + i, weight, v));
  }

  FASTMTE_TARGET static void store(BFloat16* to, const Vector (&x)[kConvVectors]) {
    for (int v = 0; v < kConvVectors; ++v) fastmte::FASTMTE_ISA::store(to + v * kWidth, x[v]);
  }

 private:
  FASTMTE_TARGET Vector one(const BFloat16* const* rows, int64_t column, const BFloat16* weight,
                            int v) {
    constexpr int kHalf = 16;  // outputs that lie together
    weight += v * kWidth / kHalf * (kConvInputs * kHalf) + v * kWidth % kHalf * 2;
    Vector sum{};
    for (int64_t dy = 0; dy < sizes_.kernel_rows; ++dy) {
      const BFloat16* x = rows[dy] + column * sizes_.column_stride * sizes_.inputs;
      const BFloat16* end = x + sizes_.kernel_columns * sizes_.inputs;
      for (; x < end; x += kConvInputs, weight += kConvInputs * kConvOutputs)
        for (int64_t i = 0; i < kConvInputs; i += 2) {
          Vector even, odd;
          load_pairs(weight + i * kHalf, even, odd);
          sum = fma(even, broadcast(static_cast<float>(x[i])), sum);
          sum = fma(odd, broadcast(static_cast<float>(x[i + 1])), sum);
        }
    }
    return sum;
  }

  // Lane i of `even` and `odd` are the values 2 i and 2 i + 1.
  FASTMTE_TARGET static void load_pairs(const BFloat16* from, Vector& even, Vector& odd) {
    Bits pairs;
    std::memcpy(&pairs, from, sizeof pairs);
    even = (Vector)(pairs << 16);
    odd = (Vector)(pairs & static_cast<int32_t>(0xffff0000));
  }

  const ConvSizes& sizes_;
};

// Rows [begin, end) of the output, numbered song by song, of blocks [first, last) of its channels.
template <typename Engine>
class ConvRows {
 public:
  explicit ConvRows(const Conv& conv)
      : conv_(conv),
        engine_(conv.sizes),
        input_(conv),
        n_steps_(conv.sizes.kernel_rows * conv.sizes.kernel_columns * conv.sizes.inputs /
                 kConvInputs),
        windows_(conv, n_steps_ * conv.sizes.pool_rows),
        sums_(2 * conv.sizes.pool_rows * kConvSums) {}

  FASTMTE_TARGET void run(int64_t begin, int64_t end, int64_t first, int64_t last) {
    // What is read again and again is the smaller: all weights, or some rows of the input.
    const bool is_small = n_steps_ * conv_.sizes.outputs * kConvInputs <= kFewWeights;
    const int64_t n_windows = conv_.sizes.out_columns(),
                  n = kConvPositions / conv_.sizes.pool_columns;
    for (int64_t at = begin, stop; at < end; at = stop) {
      stop = input_.take(at, end);
      const int64_t outer_end = is_small ? first + 1 : last, inner = is_small ? last - first : 1;
      for (int64_t outer = first; outer < outer_end; ++outer)
        for (int64_t row = at; row < stop; ++row)
          for (int64_t window = 0; window < n_windows; window += n)
            for (int64_t block = outer; block < outer + inner; ++block)
              one(at, row, window, std::min(n, n_windows - window), block);
    }
    windows_.all();
  }

 private:
  static constexpr int64_t kFewWeights = 1 << 19;

  FASTMTE_TARGET void one(int64_t first_row, int64_t row, int64_t window, int64_t n,
                          int64_t block) {
    const ConvSizes& sizes = conv_.sizes;
    const BFloat16* weight = conv_.weight + block * n_steps_ * kConvInputs * kConvOutputs;
    const BFloat16* const* rows = input_.rows(row - first_row);
    Scalar* sums = sums_.data() + (is_second_ ? sizes.pool_rows * kConvSums : 0);
    for (int64_t r = 0; r < sizes.pool_rows; ++r)
      engine_.sums(rows + r * sizes.kernel_rows, window * sizes.pool_columns,
                   n * sizes.pool_columns, weight, sums + r * kConvSums, windows_);
    windows_.all();
    windows_.begin(sums, row, window, n, block);
    is_second_ = !is_second_;
  }

  const Conv& conv_;
  Engine engine_;
  ConvInput input_;
  int64_t n_steps_;
  ConvWindows<Engine> windows_;
  Aligned<Scalar> sums_;
  bool is_second_ = false;
};

template <typename Engine>
FASTMTE_TARGET void conv_pool_act_rows(const Conv& conv, int64_t begin, int64_t end, int64_t first,
                                       int64_t last) {
  ConvRows<Engine>(conv).run(begin, end, first, last);
}

FASTMTE_TARGET void conv_pool_act_plain(const Conv& conv, int64_t begin, int64_t end, int64_t first,
                                        int64_t last) {
  conv_pool_act_rows<PlainEngine>(conv, begin, end, first, last);
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
