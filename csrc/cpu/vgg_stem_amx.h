// The rows of vgg_stem by AMX; see stem_amx.h.
#pragma once

#include "cpu/stem_amx.h"

#ifdef FASTMTE_HAS_AMX

namespace fastmte::avx512 {
namespace {

// A record holds the four rows of the map below a row of windows, both parts. The rows of a tile
// are 16 windows, its 32 inputs the records of four columns, the last of which has no weight. The
// tiles of the four columns and two rows of the windows are then compared.
class VggTiles {
 public:
  static constexpr bool kAre = true;

  explicit VggTiles(const StemSizes& sizes)
      : n_channels_(sizes.channels),
        n_windows_(sizes.pooled_frames),
        records_((n_columns(sizes) + 1) * kStemRecord),
        weights_((sizes.channels + kStemLanes) / 16 * 2 * kWeights),
        sums_(3 * kPositions * kStemTile) {
    set_whole(tiles_);
  }

  // Columns that rows of the map must have, with the one of padding before them.
  static int64_t n_columns(const StemSizes& sizes) {
    return (sizes.pooled_frames + 15) / 16 * 64 + 16;
  }

  // As often as `weights` change.
  void pack(MemberWeights<9>& weights) {
    weights_.clear();
    for (int64_t c = 0; c < n_channels_; c += 16)
      for (int row = 0; row < 2; ++row)
        for (int i = 0; i < kWeights; ++i) {
          const int input = i / 32 * 2 + i % 2, channel = i / 2 % 16;
          const int dx = input / 8, dy = input % 4 - row;
          const bool is_tap = dx < 3 && dy >= 0 && dy < 3;
          const Scalar* taps = weights.taps(c / kStemLanes * kStemLanes) + c % kStemLanes;
          // The second part of an input is multiplied by the first of its weight only.
          const Scalar weight = is_tap ? taps[(dy * 3 + dx) * kStemLanes + channel] : 0;
          weights_.set((c / 8 + row) * kWeights + i, weight, input % 8 < 4);
        }
  }

  // One row of windows of all channels, from the four rows of the input below it.
  FASTMTE_AVX512_TARGET void pool_row(const Scalar* const (&rows)[4], MemberWeights<9>& weights,
                                      BFloat16* out) {
    read(rows);
    for (int64_t window = 0; window < n_windows_; window += 16)
      for (int64_t c = 0; c < n_channels_; c += 16) {
        Scalar* sums = sums_.data() + turn_ * kPositions * kStemTile;
        turn_ = turn_ == 2 ? 0 : turn_ + 1;
        multiply(window, c / 8 * kWeights, sums);
        while (ready_.n_left > 0) finish_one();
        ready_ = next_;
        next_ = {sums, weights.bias(c), out + window * n_channels_ + c,
                 std::min<int64_t>(16, n_windows_ - window), n_channels_ - c};
      }
    while (ready_.n_left > 0) finish_one();
    ready_ = next_;
    next_ = {};
    while (ready_.n_left > 0) finish_one();
  }

 private:
  static constexpr int kPositions = 8, kWeights = 32 * 16;

  // Windows whose sums are made.
  struct Ready {
    const Scalar *sums, *bias;
    BFloat16* out;
    int64_t n_left, n_channels;
  };

  FASTMTE_AVX512_TARGET void read(const Scalar* const (&rows)[4]) {
    const int64_t n_columns = (n_windows_ + 15) / 16 * 64 + 4;
    for (int64_t i = 0; i < n_columns; i += 16) {
      const RowPairs upper = split(load(rows[0] + i), load(rows[1] + i));
      const RowPairs lower = split(load(rows[2] + i), load(rows[3] + i));
      store_records(records_.data() + i * kStemRecord, upper.firsts, lower.firsts, upper.rests,
                    lower.rests);
    }
  }

  FASTMTE_AVX512_TARGET void multiply(int64_t window, int64_t place, Scalar* sums) {
    const bool has_rests = weights_.has_rests();
    tile_load<6>(weights_.firsts() + place, 64);
    tile_load<7>(weights_.firsts() + place + kWeights, 64);
    if (has_rests) {
      tile_load<2>(weights_.rests() + place, 64);
      tile_load<3>(weights_.rests() + place + kWeights, 64);
    }
    const BFloat16* from = records_.data() + window * 4 * kStemRecord;
    for (int column = 0; column < 4; ++column, from += kStemRecord, sums += 2 * kStemTile) {
      tile_load<4>(from, 4 * kStemRecord * sizeof(BFloat16));
      tile_zero<0>();
      tile_multiply<0, 4, 6>();
      tile_zero<1>();
      tile_multiply<1, 4, 7>();
      if (has_rests) {
        tile_multiply<0, 4, 2>();
        tile_multiply<1, 4, 3>();
      }
      tile_store<0>(sums, 64);
      tile_store<1>(sums + kStemTile, 64);
      for (int i = 0; i < 4 && ready_.n_left > 0; ++i) finish_one();
    }
  }

  FASTMTE_AVX512_TARGET void finish_one() {
    Vector largest = load(ready_.sums);
    for (int i = 1; i < kPositions; ++i) largest = max(load(ready_.sums + i * kStemTile), largest);
    store_rounded(ready_.out, elu(largest + load(ready_.bias)), ready_.n_channels);
    ready_.sums += 16;
    ready_.out += n_channels_;
    --ready_.n_left;
  }

  int64_t n_channels_, n_windows_;
  Aligned<BFloat16> records_;
  SplitWeights weights_;
  Aligned<Scalar> sums_;
  Tiles tiles_;
  Ready ready_{};
  int turn_ = 0;
  Ready next_{};
};

}  // namespace
}  // namespace fastmte::avx512

#endif
