// The float32 filter of dkmeans_assign: which free points can be the farthest from a centroid.
//
// A row is a free point less a reference point, a score |y|^2 - 2 y.o is the squared distance of
// row y to the centroid at offset o from the reference, less |o|^2. Scores only narrow the choice:
// `margin` bounds their rounding, and what they cannot tell apart is told apart in float64.
#pragma once

#include <cstdint>
#include <limits>

namespace fastmte {

constexpr int64_t kRows = 32;      // rows side by side in a block
constexpr int64_t kGroup = 8;      // offsets side by side in a group
constexpr int64_t kLanes = 16;     // maxima of as many disjoint sets of rows
constexpr int64_t kMaxKept = 256;  // rows kept of a centroid

// Rows by falling distance from the reference.
struct FilterRows {
  int64_t n_features, n_blocks;
  const float* values;   // (n_blocks, n_features, 32)
  const float* squares;  // (n_blocks, 32), |y|^2; -inf once taken
  const float* radius;   // (n_blocks), at least |y| of every row of this block and the later ones
};

struct FilterCentre {
  double norm;    // at least |o|
  double margin;  // at least the error of a score
};

// The farthest rows of one centroid, in no order: all that score more than `least`.
struct Farthest {
  float score[kMaxKept];
  int32_t row[kMaxKept];
  float maxima[kLanes];  // of the rows of each lane: so 16 rows score at least their minimum
  int32_t n;
  float least;
  bool is_full;  // some are missing
};

// Finds at least n_kept (4, 8 or 16) of the farthest rows, from `first_block` on, of n_centres
// centroids at once. offsets (groups, n_features, 8) hold -2 o; active (groups). Returns how many
// scores it computed.
using FindFarthest = int64_t (*)(const FilterRows& rows, int64_t first_block, const float* offsets,
                                 const FilterCentre* centres, int64_t n_centres, int64_t n_kept,
                                 Farthest* farthest, int32_t* active);

// Scores of all rows that can be within `tie_part` of the farthest, from `first_block` on, of one
// centroid (n_features, 8): scores[32 b + l]. Returns the block after the last one with scores.
using ScoreRows = int64_t (*)(const FilterRows& rows, int64_t first_block, const float* offsets,
                              const FilterCentre& centre, double tie_part, float* scores);

struct Filter {
  FindFarthest find_farthest;
  ScoreRows score_rows;
};

// The filter of this machine's widest instruction set.
Filter filter();

// A row that scores less is surely nearer than `tie_part` of the squared distance of the row that
// scores `top`.
inline double tie_floor(double top, const FilterCentre& centre, double tie_part) {
  const double square = centre.norm * centre.norm, least = top + square - centre.margin;
  return (least > 0 ? least * tie_part : 0.0) - square - centre.margin;
}

}  // namespace fastmte
