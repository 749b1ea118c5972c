// The arithmetic of the VGG stem's training for one kind of vector; see each_isa.h.
#include "bn_parts.h"

namespace fastmte::FASTMTE_ISA {
namespace {

constexpr int kStemVectors = 2, kStemLanes = kStemVectors * kWidth;

// Four rows of a mel between columns of zeros; rows outside of it are zeros.
class FourRows {
 public:
  FourRows(int64_t bands, int64_t frames)
      : bands_(bands), frames_(frames), values_(4 * (frames + 2) + kReadAhead, Scalar{0}) {}

  // Points `rows` to scale * x + shift of the bands from `first` on.
  FASTMTE_TARGET void read(const Scalar* mel, int64_t first, Scalar scale, Scalar shift,
                           const Scalar* (&rows)[4]) {
    for (int i = 0; i < 4; ++i) {
      Scalar* to = values_.data() + i * (frames_ + 2);
      rows[i] = to++;
      const int64_t band = first + i;
      if (band < 0 || band >= bands_) {
        std::fill_n(to, frames_, Scalar{0});
        continue;
      }
      const Scalar* from = mel + band * frames_;
      for (int64_t at = 0; at < frames_; at += kWidth)
        store_first(to + at,
                    fma(load_first(from + at, frames_ - at), broadcast(scale), broadcast(shift)),
                    frames_ - at);
    }
  }

 private:
  static constexpr int64_t kReadAhead = 2;  // of eight values from a window's six columns on
  int64_t bands_, frames_;
  std::vector<Scalar> values_;
};

// Weights (9, kStemLanes) and bias of a block of channels, zeros after the last.
struct BlockWeights {
  Scalar taps[9][kStemLanes] = {}, bias[kStemLanes] = {};

  BlockWeights(const Scalar* weight, const Scalar* bias_, int64_t n_channels) {
    for (int64_t c = 0; c < kStemLanes && c < n_channels; ++c) {
      for (int tap = 0; tap < 9; ++tap) taps[tap][c] = weight[c * 9 + tap];
      bias[c] = bias_[c];
    }
  }
};

// A map's channels of one pooling window: the largest value and the point that has it.
struct Winner {
  Vector largest[kStemVectors];
  Bits point[kStemVectors];
};

// Four neighbours in a conv row, for two vectors of channels; the first of them is `point`.
template <bool kIsFirst>
FASTMTE_TARGET FASTMTE_INLINE void conv_four(const Scalar* const* rows, int64_t at, int64_t point,
                                             const Vector (&weight)[9][kStemVectors],
                                             Winner& winner) {
  Vector sum[4][kStemVectors];
  FASTMTE_UNROLL
  for (int dy = 0; dy < 3; ++dy) {
    FASTMTE_UNROLL
    for (int column = 0; column < 6; ++column) {
      const Vector x = broadcast(rows[dy][at + column]);
      FASTMTE_UNROLL
      for (int dx = 2; dx >= 0; --dx) {
        const int i = column - dx;
        if (i < 0 || i >= 4) continue;
        FASTMTE_UNROLL
        for (int v = 0; v < kStemVectors; ++v) {
          const Vector w = weight[dy * 3 + dx][v];
          sum[i][v] = dy + dx == 0 ? w * x : fma(w, x, sum[i][v]);
        }
      }
    }
  }
  FASTMTE_UNROLL
  for (int i = 0; i < 4; ++i)
    for (int v = 0; v < kStemVectors; ++v) {
      const Vector y = sum[i][v];
      if (kIsFirst && i == 0) {
        winner.largest[v] = y;
        winner.point[v] = Bits{};
        continue;
      }
      const Bits is_larger = (Bits)(y > winner.largest[v]) | (Bits)(y != y);
      winner.largest[v] = choose(is_larger, y, winner.largest[v]);
      winner.point[v] = is_larger ? all(point + i) : winner.point[v];
    }
}

// Output rows [begin, end), numbered member by member, song by song.
template <typename T>
FASTMTE_TARGET void vgg_stem_argmax_rows(const TrainStem<Scalar>& stem, T* out, uint8_t* argmax,
                                         int64_t begin, int64_t end) {
  const int64_t n_rows = stem.bands / 2, n_windows = stem.frames / 4, channels = stem.channels;
  FourRows map(stem.bands, stem.frames);
  for (int64_t at = begin; at < end; ++at) {
    const int64_t member = at / n_rows / stem.n_songs, song = at / n_rows % stem.n_songs;
    const Scalar* rows[4];
    map.read(stem.x + song * stem.bands * stem.frames, at % n_rows * 2 - 1, stem.scale[member],
             stem.shift[member], rows);
    for (int64_t c = 0; c < channels; c += kStemLanes) {
      const int64_t first = member * channels + c;
      const BlockWeights block(stem.weight + first * 9, stem.bias + first, channels - c);
      Vector weight[9][kStemVectors], offset[kStemVectors];
      for (int tap = 0; tap < 9; ++tap)
        for (int v = 0; v < kStemVectors; ++v) weight[tap][v] = load(block.taps[tap] + v * kWidth);
      for (int v = 0; v < kStemVectors; ++v) offset[v] = load(block.bias + v * kWidth);
      for (int64_t window = 0; window < n_windows; ++window) {
        Winner winner;
        conv_four<true>(rows, window * 4, 0, weight, winner);
        conv_four<false>(rows + 1, window * 4, 4, weight, winner);
        const int64_t to = (at * n_windows + window) * channels + c;
        for (int v = 0; v < kStemVectors; ++v) {
          const int64_t n = channels - c - v * kWidth;
          if (n <= 0) break;
          store_first(out + to + v * kWidth, elu(winner.largest[v] + offset[v]), n);
          store_index(argmax + to + v * kWidth, winner.point[v], n);
        }
      }
    }
  }
}

struct StemSums {
  Vector of_x[9], outside[9], total;
};

// Adds to the nine taps the values around the point that won, which lie in 4 rows of 8. A template
// so that only vectors with a pick need have it.
template <typename S>
FASTMTE_TARGET FASTMTE_INLINE void add_picked(const S* const (&rows)[4], int64_t at, Vector g,
                                              Bits point, StemSums& sums) {
  const auto upper = join(rows[0] + at, rows[1] + at), lower = join(rows[2] + at, rows[3] + at);
  const Bits first = (point >> 2) * 8 + (point & 3);
  FASTMTE_UNROLL
  for (int tap = 0; tap < 9; ++tap)
    sums.of_x[tap] = fma(g, pick(upper, lower, first + (tap / 3 * 8 + tap % 3)), sums.of_x[tap]);
}

// Adds a window: g goes to the points around the one that won. `is_outside` tells of a point of
// the window and a tap whether they meet outside the map.
template <bool kIsBorder, typename IsOutside>
FASTMTE_TARGET FASTMTE_INLINE void add_window(const Scalar* const (&rows)[4], int64_t at, Vector g,
                                              Bits point, IsOutside is_outside, StemSums& sums) {
  sums.total += g;
  if constexpr (kHasPick) add_picked(rows, at, g, point, sums);
  if (kHasPick && !kIsBorder) return;
  FASTMTE_UNROLL
  for (int q = 0; q < 8; ++q) {
    const Vector here = choose((Bits)(point == all(q)), g, Vector{});
    FASTMTE_UNROLL
    for (int tap = 0; tap < 9; ++tap) {
      if constexpr (!kHasPick) {
        const Scalar x = rows[q / 4 + tap / 3][at + q % 4 + tap % 3];
        sums.of_x[tap] = fma(here, broadcast(x), sums.of_x[tap]);
      }
      if (kIsBorder && is_outside(q, tap)) sums.outside[tap] += here;
    }
  }
}

// Adds one song's sums (C, 19) of one member; see vgg_stem_sums in fastmte/reference_training.py.
template <typename T>
FASTMTE_TARGET void vgg_stem_song_sums(const T* gradient, const T* out, const uint8_t* argmax,
                                       const Scalar* mel, int64_t bands, int64_t frames,
                                       int64_t channels, double* sums) {
  const int64_t n_rows = bands / 2, n_windows = frames / 4;
  FourRows map(bands, frames);
  for (int64_t row = 0; row < n_rows; ++row) {
    const Scalar* rows[4];
    map.read(mel, 2 * row - 1, 1, 0, rows);
    const bool is_edge = row == 0 || 2 * row + 2 == bands;
    for (int64_t c = 0; c < channels; c += kWidth) {
      const int64_t n = channels - c;
      StemSums of_row{};
      for (int64_t window = 0; window < n_windows; ++window) {
        const int64_t from = (row * n_windows + window) * channels + c;
        const Vector g = through_activation(load_first(gradient + from, n),
                                            load_first(out + from, n), Activation::kElu);
        const Bits point = load_index(argmax + from, n);
        const auto is_outside = [&](int q, int tap) FASTMTE_TARGET {
          const int64_t y = 2 * row + q / 4 + tap / 3 - 1, x = 4 * window + q % 4 + tap % 3 - 1;
          return y < 0 || y >= bands || x < 0 || x >= frames;
        };
        if (is_edge || window == 0 || 4 * window + 4 >= frames)
          add_window<true>(rows, 4 * window, g, point, is_outside, of_row);
        else
          add_window<false>(rows, 4 * window, g, point, is_outside, of_row);
      }
      for (int lane = 0; lane < kWidth && lane < n; ++lane) {
        double* to = sums + (c + lane) * 19;
        for (int tap = 0; tap < 9; ++tap) {
          to[tap] += of_row.of_x[tap][lane];
          to[9 + tap] += of_row.outside[tap][lane];
        }
        to[18] += of_row.total[lane];
      }
    }
  }
}

template <typename T>
VggStemTrainKernels<T> vgg_stem_train_kernels() {
  return {vgg_stem_argmax_rows<T>, vgg_stem_song_sums<T>};
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
