// The gradient of a convolution's weights as sums over points: one call's arrays and their layout.
#pragma once

#include <memory>

#include "cpu/vector.h"
#include "map_conv.h"

namespace fastmte {

// Rows [first, first + n) of a song's output.
struct MapSegment {
  int64_t song, first, n;
};

// Values that begin at a cache line, unset.
class MapScratch {
 public:
  explicit MapScratch(int64_t n) : values_(new BFloat16[n + 32]) {}

  BFloat16* data() const {
    return reinterpret_cast<BFloat16*>((reinterpret_cast<uintptr_t>(values_.get()) + 63) / 64 * 64);
  }

 private:
  std::unique_ptr<BFloat16[]> values_;
};

// A plane of the maps in pairs of points, the first pair of which is (0, 1) or (-1, 0): a tap an
// odd number of columns further reads the second.
struct MapView {
  int64_t plane, shift;
};

// Segments whose points lie packed side by side: the gradient by channel, points one after another
// (`lines`), and the maps in pairs of points (`pairs`).
class WeightSums {
 public:
  WeightSums(const BFloat16* gradient, const BFloat16* x, float* out, const MapConvSizes& sizes)
      : gradient(gradient), x(x), out(out), sizes(sizes), places(sizes) {
    for (const MapTap& tap : places.taps) view_of.push_back(view_at(tap.plane, tap.column & 1));
    const int64_t channels = sizes.inputs * static_cast<int64_t>(views.size());
    const int64_t row_bytes = places.pitch * (sizes.outputs + channels) * sizeof(BFloat16);
    // The sums themselves go through the cache once for each group of segments.
    const int64_t sums_bytes = sizes.n_taps() * sizes.inputs * sizes.outputs * sizeof(float);
    const int64_t n_rows = std::max(kGroupBytes, 2 * sums_bytes) / row_bytes;
    segment_rows = std::clamp(n_rows, int64_t{1}, sizes.out_rows());
    const int64_t all = segments_a_song() * sizes.n_songs;
    n_segments = std::clamp(n_rows / segment_rows, int64_t{1}, std::max<int64_t>(all, 1));
    // An odd number of cache lines from one channel to the next.
    line = ((segment_rows * places.pitch + 63) / 64 * 2 + 1) * 32;
    lead = (places.reach + 2) / 2 * 2;
    n_pairs =
        (lead + (segment_rows + places.above + places.below) * places.pitch + places.reach + 32) /
        2;
    lines = std::make_unique<MapScratch>(n_segments * sizes.outputs * line);
    pairs = std::make_unique<MapScratch>(n_segments * channels * n_pairs * 2);
    if (n_segments < all) totals.assign(n_blocks() * block_size(), 0.f);
  }

  // Blocks of 32 outputs, of 32 inputs, of a row of the kernel: as many sums each.
  int64_t n_blocks() const {
    return sizes.outputs / kMapBlock * (sizes.inputs / kMapBlock) * sizes.kernel[0];
  }
  int64_t block_size() const { return sizes.kernel[1] * kMapBlock * kMapBlock; }

  int64_t segments_a_song() const { return (sizes.out_rows() + segment_rows - 1) / segment_rows; }

  MapSegment segment(int64_t i) const {
    const int64_t first = i % segments_a_song() * segment_rows;
    return {i / segments_a_song(), first, std::min(segment_rows, sizes.out_rows() - first)};
  }

  BFloat16* line_of(int64_t slot, int64_t channel) const {
    return lines->data() + (slot * sizes.outputs + channel) * line;
  }

  // Of 16 channels from `channel` on.
  BFloat16* pairs_of(int64_t slot, int64_t view, int64_t channel) const {
    const auto n_views = static_cast<int64_t>(views.size());
    return pairs->data() + ((slot * n_views + view) * sizes.inputs + channel) * n_pairs * 2;
  }

  const BFloat16 *gradient, *x;
  float* out;  // (O, h, w, I)
  MapConvSizes sizes;
  MapTaps places;
  std::vector<MapView> views;
  std::vector<int64_t> view_of;  // each tap's
  int64_t segment_rows, n_segments, line;
  int64_t lead, n_pairs;  // points before the first row of `pairs`, even; pairs in all
  std::unique_ptr<MapScratch> lines, pairs;
  std::vector<float> totals;  // of the blocks, where not all segments fit at once

 private:
  static constexpr int64_t kGroupBytes = 1 << 20;  // half of a second-level cache

  int64_t view_at(int64_t plane, int64_t shift) {
    for (size_t i = 0; i < views.size(); ++i)
      if (views[i].plane == plane && views[i].shift == shift) return static_cast<int64_t>(i);
    views.push_back({plane, shift});
    return static_cast<int64_t>(views.size()) - 1;
  }
};

// Where a segment's rows that a kernel row has points for begin and end among its points, the begin
// at a cache line of `lines`; rows of zeros lie between it and the first.
struct TapRun {
  int64_t begin, end;
};

inline TapRun run_of(const WeightSums& sums, const MapSegment& segment, const MapTap& tap) {
  const MapTaps& places = sums.places;
  const int64_t first = std::max<int64_t>(0, -tap.row - segment.first);
  const int64_t last = std::min(segment.n, places.planes[tap.plane].rows - tap.row - segment.first);
  if (last <= first) return {0, 0};
  return {first * places.pitch / 32 * 32, last * places.pitch};
}

}  // namespace fastmte
