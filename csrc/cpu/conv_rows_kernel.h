// The arithmetic of conv_rows.h for one kind of vector; see each_isa.h.
//
// The sums of one block of positions and channels leave the engine for the first-level cache, where
// they are pooled and activated while the engine makes those of the next block; the map before
// pooling exists nowhere.

namespace fastmte::FASTMTE_ISA {
namespace {

constexpr int kConvVectors = kConvOutputs / kWidth;
constexpr int64_t kConvSums = kConvPositions * kConvOutputs;  // of one row of a block

// What becomes of sums, as constants and as values.
template <Activation kActivation, bool kHasOnto, bool kIsPooled>
struct FixedFinish {
  explicit FixedFinish(const Conv&) {}
  static constexpr Activation activation = kActivation;
  static constexpr bool has_onto = kHasOnto, is_pooled = kIsPooled;
};

struct AnyFinish {
  explicit AnyFinish(const Conv& conv)
      : activation(conv.activation), has_onto(conv.onto != nullptr), is_pooled(conv.is_pooled()) {}
  Activation activation;
  bool has_onto, is_pooled;
};

// Windows of one row and block of channels, whose sums are made: pooled, activated and stored one
// by one, some at each step of the engine.
template <typename Engine, typename Finish>
class ConvWindows {
 public:
  // n_steps: of the engine, before it makes other sums where these are.
  ConvWindows(const Conv& conv, int64_t n_steps)
      : finish_(conv),
        pool_rows_(conv.sizes().pool_rows),
        pool_columns_(conv.sizes().pool_columns),
        outputs_(conv.sizes().outputs),
        n_steps_(n_steps) {}

  // `n` windows of an output row of n_windows, from `first` on.
  void begin(const Conv& conv, const Scalar* sums, int64_t row, int64_t n_windows, int64_t first,
             int64_t n, int64_t block) {
    const int64_t offset = first * outputs_ + block * kConvOutputs, size = n_windows * outputs_;
    sums_ = sums;
    bias_ = conv.bias + block * kConvOutputs;
    out_ = conv.out + row % conv.out_held * size + offset;
    if (finish_.has_onto) onto_ = conv.onto + row % conv.onto_held * size + offset;
    n_left_ = n;
    n_a_step_ = (n + n_steps_ - 1) / n_steps_;
  }

  FASTMTE_TARGET FASTMTE_INLINE_MEMBER void some() {
    for (int64_t i = 0; i < n_a_step_ && n_left_ > 0; ++i) one();
  }

  FASTMTE_TARGET FASTMTE_INLINE_MEMBER void all() {
    while (n_left_ > 0) one();
  }

 private:
  FASTMTE_TARGET FASTMTE_INLINE_MEMBER void one() {
    Vector x[kConvVectors];
    FASTMTE_UNROLL
    for (int v = 0; v < kConvVectors; ++v) {
      x[v] = largest(v * kWidth) + load(bias_ + v * kWidth);
      if (finish_.has_onto) x[v] += load(onto_ + v * kWidth);
      if (finish_.activation == Activation::kElu) x[v] = elu(x[v]);
      if (finish_.activation == Activation::kRelu) x[v] = relu(x[v]);
    }
    Engine::store(out_, x);
    sums_ += pool_columns_ * kConvOutputs;
    out_ += outputs_;
    if (finish_.has_onto) onto_ += outputs_;
    --n_left_;
  }

  FASTMTE_TARGET FASTMTE_INLINE_MEMBER Vector largest(int lane) const {
    Vector result = load(sums_ + lane);
    if (!finish_.is_pooled) return result;
    for (int64_t r = 0; r < pool_rows_; ++r)
      for (int64_t i = 0; i < pool_columns_; ++i)
        result = max_keeping_nan(load(sums_ + r * kConvSums + i * kConvOutputs + lane), result);
    return result;
  }

  Finish finish_;
  int64_t pool_rows_, pool_columns_, outputs_, n_steps_, n_a_step_ = 0, n_left_ = 0;
  const Scalar* sums_ = nullptr;
  const float* bias_ = nullptr;
  const BFloat16* onto_ = nullptr;
  BFloat16* out_ = nullptr;
};

// Sums of one block of positions and channels by multiply-adds: of pairs of inputs, which lie side
// by side in the weights.
class PlainEngine {
 public:
  explicit PlainEngine(const ConvBlocks& blocks)
      : half_(blocks.half), lower_(blocks.positions - blocks.half), sums_(kConvSums) {}

  void start() {}

  FASTMTE_TARGET void begin() { std::fill_n(sums_.data(), kConvSums, Scalar{0}); }

  // Adds the products of a block of positions with a block of weights. `work` has something to do
  // for each step.
  template <typename Work>
  FASTMTE_TARGET void add(const ConvTaps& taps, const BFloat16* weight, ConvAhead, Work&) {
    for (int64_t i = 0; i < half_ + lower_; ++i) {
      const bool is_upper = i < lower_;  // those of both halves are of the second
      const int64_t offset = (is_upper ? i : i - lower_) * taps.stride;
      for (int v = 0; v < kConvVectors; ++v)
        one(taps, is_upper ? taps.upper : taps.lower, offset, weight, v,
            sums_.data() + i * kConvOutputs + v * kWidth);
    }
  }

  FASTMTE_TARGET void end(Scalar* sums) { std::copy_n(sums_.data(), kConvSums, sums); }

  FASTMTE_TARGET static void store(BFloat16* to, const Vector (&x)[kConvVectors]) {
    for (int v = 0; v < kConvVectors; ++v) fastmte::FASTMTE_ISA::store(to + v * kWidth, x[v]);
  }

 private:
  FASTMTE_TARGET void one(const ConvTaps& taps, const BFloat16* const* rows, int64_t offset,
                          const BFloat16* weight, int v, Scalar* to) {
    constexpr int kHalf = 16;  // outputs that lie together
    weight += v * kWidth / kHalf * (kConvInputs * kHalf) + v * kWidth % kHalf * 2;
    Vector sum = load(to);
    for (int64_t dy = 0; dy < taps.n_rows; ++dy) {
      const BFloat16* x = rows[dy] + offset;
      const BFloat16* end = x + taps.row_values;
      for (; x < end; x += kConvInputs, weight += kConvInputs * kConvOutputs)
        for (int64_t i = 0; i < kConvInputs; i += 2) {
          Vector even, odd;
          load_pairs(weight + i * kHalf, even, odd);
          sum = fma(even, broadcast(static_cast<float>(x[i])), sum);
          sum = fma(odd, broadcast(static_cast<float>(x[i + 1])), sum);
        }
    }
    fastmte::FASTMTE_ISA::store(to, sum);
  }

  // Lane i of `even` and `odd` are the values 2 i and 2 i + 1.
  FASTMTE_TARGET static void load_pairs(const BFloat16* from, Vector& even, Vector& odd) {
    Bits pairs;
    std::memcpy(&pairs, from, sizeof pairs);
    even = (Vector)(pairs << 16);
    odd = (Vector)(pairs & static_cast<int32_t>(0xffff0000));
  }

  int64_t half_, lower_;
  Aligned<Scalar> sums_;
};

template <typename Engine, typename Finish>
class ConvRows : public ConvPass {
 public:
  explicit ConvRows(const Conv& conv)
      : conv_(conv),
        blocks_(conv.sizes()),
        engine_(blocks_),
        n_steps_(conv.n_steps()),
        windows_(conv, n_steps_ * conv.sizes().pool_rows),
        sums_(2 * conv.sizes().pool_rows * kConvSums) {
    for (int i = 0; i < conv.n_sources; ++i) inputs_.emplace_back(conv.sources[i], blocks_);
  }

  FASTMTE_TARGET void run(int64_t begin, int64_t end, int64_t first, int64_t last) override {
    engine_.start();
    for (int64_t at = begin, stop; at < end; at = stop) {
      stop = end;
      for (ConvInput& input : inputs_) stop = input.take(at, stop);
      // What is read again and again is the smaller: all weights, or some rows of the input.
      if (n_steps_ * conv_.sizes().outputs * kConvInputs <= kFewWeights) {
        for (int64_t row = at; row < stop; ++row)
          for (int64_t i = 0; i < blocks_.n; ++i)
            for (int64_t block = first; block < last; ++block) one(row, i, block, 0, 0);
        continue;
      }
      const int64_t n_times = (stop - at) * blocks_.n;
      for (int64_t block = first; block < last; ++block)
        for (int64_t row = at; row < stop; ++row)
          for (int64_t i = 0; i < blocks_.n; ++i)
            one(row, i, block, (row - at) * blocks_.n + i, block + 1 < last ? n_times : 0);
    }
    windows_.all();
  }

 private:
  static constexpr int64_t kFewWeights = 1 << 18;

  // For the n-th of n_times that this block of weights is used, before the next one is; n_times is
  // 0 where none is to be fetched.
  FASTMTE_TARGET void one(int64_t row, int64_t i, int64_t block, int64_t n, int64_t n_times) {
    const ConvSizes& sizes = conv_.sizes();
    Scalar* sums = sums_.data() + (is_second_ ? sizes.pool_rows * kConvSums : 0);
    auto windows = windows_;  // of its own, as the tiles' loads may change what others can see
    for (int64_t r = 0; r < sizes.pool_rows; ++r) {
      engine_.begin();
      for (int s = 0; s < conv_.n_sources; ++s) {
        const ConvSource& source = conv_.sources[s];
        const int64_t n_values = source.n_steps() * kConvInputs * kConvOutputs;
        const BFloat16* weight = source.weight + block * n_values;
        ConvAhead ahead;
        if (n_times > 0 && r == 0) {
          ahead.n_lines = (kConvOutputs + n_times - 1) / n_times;
          ahead.at = weight + n_values + n * source.n_steps() * ahead.n_lines * kConvInputs;
        }
        engine_.add(inputs_[s].taps(row, r, i), weight, ahead, windows);
      }
      engine_.end(sums + r * kConvSums);
    }
    windows.all();
    windows.begin(conv_, sums, row, blocks_.n_windows, blocks_.first_window(i), blocks_.windows,
                  block);
    windows_ = windows;
    is_second_ = !is_second_;
  }

  Conv conv_;
  ConvBlocks blocks_;
  Engine engine_;
  std::vector<ConvInput> inputs_;
  int64_t n_steps_;
  ConvWindows<Engine, Finish> windows_;
  Aligned<Scalar> sums_;
  bool is_second_ = false;
};

std::unique_ptr<ConvPass> plain_pass(const Conv& conv) {
  return std::make_unique<ConvRows<PlainEngine, AnyFinish>>(conv);
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
