// What the stems share, for one kind of vector; see each_isa.h.

namespace fastmte::FASTMTE_ISA {
namespace {

constexpr int kStemVectors = 2, kStemLanes = kStemVectors * kWidth;

// Where sums are made by vectors only.
struct NoTiles {
  static constexpr bool kAre = false;
  explicit NoTiles(const StemSizes&) {}
  static int64_t n_columns(const StemSizes&) { return 0; }
};

// One member's weights in blocks of kStemLanes channels, with zeros after the last channel:
// (blocks, taps, lanes) and the biases (blocks, lanes). O(C taps), far below one row's arithmetic.
template <int kTaps>
class MemberWeights {
 public:
  explicit MemberWeights(int64_t channels)
      : channels_(channels),
        padded_((channels + kStemLanes - 1) / kStemLanes * kStemLanes),
        taps_(padded_ * kTaps),
        bias_(padded_) {}

  // weight (C, taps), bias (C).
  void pack(const Scalar* weight, const Scalar* bias) {
    gain_ = 0;
    for (int64_t c = 0; c < padded_; ++c) {
      const bool is_real = c < channels_;
      Scalar* to = taps_.data() + (c - c % kStemLanes) * kTaps + c % kStemLanes;
      for (int tap = 0; tap < kTaps; ++tap) {
        to[tap * kStemLanes] = is_real ? weight[c * kTaps + tap] : 0;
        gain_ += std::abs(to[tap * kStemLanes]);
      }
      bias_.data()[c] = is_real ? bias[c] : 0;
    }
  }

  // True where no sum over inputs of at most this magnitude can overflow, so that none is NaN.
  bool stays_finite(Scalar magnitude) const {
    return magnitude * gain_ < std::numeric_limits<Scalar>::max() / 2;
  }

  // Of the block that begins with channel c.
  const Scalar* taps(int64_t c) { return taps_.data() + c * kTaps; }
  const Scalar* bias(int64_t c) { return bias_.data() + c; }

 private:
  int64_t channels_, padded_;
  Aligned<Scalar> taps_, bias_;
  Scalar gain_ = 0;
};

// The rows of a song's map that a stem reads now, between columns of zeros; at most kRows at once.
template <int kRows>
class MapRows {
 public:
  // `pad` zeros go before a row, and as many after it as `stride` leaves.
  MapRows(int64_t bands, int64_t frames, int64_t pad, int64_t stride)
      : bands_(bands), frames_(frames), pad_(pad), stride_(stride), values_((kSlots + 1) * stride) {
    std::fill_n(values_.data(), (kSlots + 1) * stride, Scalar{0});
  }

  void begin(const Scalar* map, Scalar scale, Scalar shift) {
    map_ = map;
    scale_ = scale;
    shift_ = shift;
    std::fill_n(held_, kSlots, int64_t{-1});
  }

  // Points `rows` to scale * x + shift of the bands from `first` on, to zeros outside the map.
  // Returns their largest magnitude, NaN where one is.
  FASTMTE_TARGET Scalar read(int64_t first, const Scalar* (&rows)[kRows]) {
    Scalar largest = 0;
    for (int i = 0; i < kRows; ++i) {
      const int64_t band = first + i, slot = band & (kSlots - 1);
      const bool is_inside = band >= 0 && band < bands_;
      rows[i] = values_.data() + (is_inside ? slot : kSlots) * stride_;
      if (!is_inside) continue;
      if (held_[slot] != band) fill(band, slot);
      if (!(magnitude_[slot] <= largest)) largest = largest != largest ? largest : magnitude_[slot];
    }
    return largest;
  }

 private:
  static constexpr int64_t kSlots = kRows <= 4 ? 4 : 8;
  static_assert(kRows <= kSlots);

  FASTMTE_TARGET void fill(int64_t band, int64_t slot) {
    const Vector scale = broadcast(scale_), shift = broadcast(shift_);
    const Scalar* from = map_ + band * frames_;
    Scalar* to = values_.data() + slot * stride_ + pad_;
    Vector largest{};
    int64_t i = 0;
    for (; i + kWidth <= frames_; i += kWidth) {
      const Vector x = fma(load(from + i), scale, shift);
      largest = max_keeping_nan(largest, absolute(x));
      store(to + i, x);
    }
    if (const int64_t n = frames_ - i; n > 0) {
      const Vector x = fma(load_first(from + i, n), scale, shift);
      store_first(to + i, x, n);
      largest = max_keeping_nan(largest, absolute(load_first(to + i, n)));
    }
    held_[slot] = band;
    magnitude_[slot] = largest_lane(largest);
  }

  int64_t bands_, frames_, pad_, stride_;
  Aligned<Scalar> values_;
  const Scalar* map_ = nullptr;
  Scalar scale_ = 1, shift_ = 0;
  int64_t held_[kSlots];
  Scalar magnitude_[kSlots];
};

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
