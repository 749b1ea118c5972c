// The conv rows of resnet_stem by AMX; see stem_amx.h.
#pragma once

#include "cpu/stem_amx.h"

#ifdef FASTMTE_HAS_AMX

namespace fastmte::avx512 {
namespace {

// A record holds the seven rows of the map that a conv row is made of; the two parts lie in arrays
// of their own. The rows of a tile are 16 neighbours of a conv row; their inputs are the records of
// eight columns, half of them at a time, the last of which has no weight.
class ResnetTiles {
 public:
  static constexpr bool kAre = true;

  explicit ResnetTiles(const StemSizes& sizes)
      : n_channels_(sizes.channels),
        n_columns_((sizes.frames + 1) / 2),
        n_read_(n_columns(sizes) / 16 * 16),
        records_(2 * n_read_ * kStemRecord),
        weights_((sizes.channels + kStemLanes) / 16 * 2 * kWeights),
        sums_(2 * kStemTile) {
    set_whole(tiles_);
  }

  // Columns that rows of the map must have, with the padding before them.
  static int64_t n_columns(const StemSizes& sizes) {
    return ((sizes.frames + 1) / 2 + 15) / 16 * 32 + 32;
  }

  // As often as `weights` change.
  void pack(MemberWeights<49>& weights) {
    weights_.clear();
    for (int64_t c = 0; c < n_channels_; c += 16)
      for (int half = 0; half < 2; ++half)
        for (int i = 0; i < kWeights; ++i) {
          const int input = i / 32 * 2 + i % 2, channel = i / 2 % 16;
          const int dx = half * 4 + input / 8, dy = input % 8;
          const Scalar* taps = weights.taps(c / kStemLanes * kStemLanes) + c % kStemLanes;
          const bool is_tap = dx < 7 && dy < 7;
          weights_.set((c / 8 + half) * kWeights + i,
                       is_tap ? taps[(dy * 7 + dx) * kStemLanes + channel] : 0, true);
        }
  }

  FASTMTE_AVX512_TARGET void read(const Scalar* const (&rows)[7]) {
    BFloat16 *upper = records_.data(), *rest = upper + n_read_ * kStemRecord;
    for (int64_t i = 0; i < n_read_; i += 16) {
      RowPairs pairs[4];
      for (int k = 0; k < 4; ++k)
        pairs[k] = split(load(rows[2 * k] + i), k < 3 ? load(rows[2 * k + 1] + i) : Vector{});
      store_records(upper + i * kStemRecord, pairs[0].firsts, pairs[1].firsts, pairs[2].firsts,
                    pairs[3].firsts);
      store_records(rest + i * kStemRecord, pairs[0].rests, pairs[1].rests, pairs[2].rests,
                    pairs[3].rests);
    }
  }

  // As conv_row of the rows that were read, of the channels from c on.
  template <typename Out>
  FASTMTE_AVX512_TARGET void conv_row(int64_t c, Part part, const PooledRow<Out>& row) {
    for (int v = 0; v < kStemVectors && c + v * kWidth < n_channels_; ++v) {
      Vector before = broadcast(-std::numeric_limits<Scalar>::infinity());
      load_weights((c / 8 + 2 * v) * kWeights);
      multiply(0, sums_.data());
      for (int64_t column = 0; column < n_columns_; column += 16) {
        Scalar* sums = sums_.data() + (column & 16) * 16;
        if (column + 16 < n_columns_)
          multiply(column + 16, sums_.data() + (~column & 16) * 16);
        else
          for (int64_t i = n_columns_ - column; i < 16; ++i)
            store(sums + i * 16, broadcast(-std::numeric_limits<Scalar>::infinity()));
        pool(column, v, part, row, sums, before);
      }
    }
  }

 private:
  static constexpr int kWeights = 32 * 16;

  void load_weights(int64_t place) {
    tile_load<6>(weights_.firsts() + place, 64);
    tile_load<7>(weights_.firsts() + place + kWeights, 64);
    tile_load<2>(weights_.rests() + place, 64);
    tile_load<3>(weights_.rests() + place + kWeights, 64);
  }

  void multiply(int64_t column, Scalar* sums) {
    constexpr int64_t kStride = 2 * kStemRecord * sizeof(BFloat16);
    const BFloat16 *upper = records_.data() + 2 * column * kStemRecord,
                   *rest = upper + n_read_ * kStemRecord;
    tile_zero<0>();
    tile_load<4>(upper, kStride);
    tile_multiply<0, 4, 6>();
    tile_load<5>(upper + 4 * kStemRecord, kStride);
    tile_multiply<0, 5, 7>();
    if (weights_.has_rests()) {
      tile_multiply<0, 4, 2>();
      tile_multiply<0, 5, 3>();
    }
    tile_load<4>(rest, kStride);
    tile_multiply<0, 4, 6>();
    tile_load<5>(rest + 4 * kStemRecord, kStride);
    tile_multiply<0, 5, 7>();
    tile_store<0>(sums, 64);
  }

  template <typename Out>
  FASTMTE_AVX512_TARGET void pool(int64_t column, int v, Part part, const PooledRow<Out>& row,
                                  const Scalar* sums, Vector& before) {
    for (int i = 0; i < 16; i += 2) {
      const Vector left = load(sums + i * 16), right = load(sums + i * 16 + 16);
      const Vector largest = max(max(before, left), right);
      before = right;
      const int64_t window = (column + i) / 2;
      Scalar* held = row.held + window * kStemLanes + v * kWidth;
      const Vector both = max(largest, load(held));
      store(held, part == Part::kMiddle ? both : largest);
      if (part == Part::kLast && window < row.n_windows)
        store_rounded(row.out + window * row.stride + v * kWidth,
                      relu(both + load(row.bias + v * kWidth)), row.n_channels - v * kWidth);
    }
  }

  int64_t n_channels_, n_columns_, n_read_;
  Aligned<BFloat16> records_;
  SplitWeights weights_;
  Aligned<Scalar> sums_;
  Tiles tiles_;
};

}  // namespace
}  // namespace fastmte::avx512

#endif
