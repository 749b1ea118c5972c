// See dkmeans_scan.h.
#include "dkmeans_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fastmte {
namespace {

constexpr int64_t kFewRows = 2 * kRows;    // so few are never sorted again
constexpr int64_t kScoresOfPacking = 250;  // scores of a row cost as much as packing it
constexpr double kNearer = 0.3;            // of the offsets' squares that a reference must save
constexpr double kRounding = 0x1p-24;      // of a float32 operation
constexpr double kFineRounding = 0x1p-52;  // of two float64 operations
constexpr double kSmallest = 0x1p-125;     // below it float32 may lose everything
constexpr double kFar = 0x1p20, kTooFar = 0x1p60;  // offsets in range, at packing and later

uint64_t hash_of(const double* x, int64_t n) {
  uint64_t hash = 0;
  for (int64_t d = 0; d < n; ++d) {
    uint64_t bits;
    std::memcpy(&bits, x + d, sizeof bits);
    hash = (hash ^ bits) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  return hash;
}

void add(const double* x, int64_t n, double* sum) {
  for (int64_t d = 0; d < n; ++d) sum[d] += x[d];
}

// A squared distance in any order of sums: eight at a time.
double fast_square(const double* x, const double* y, int64_t n) {
  double sums[8] = {};
  int64_t d = 0;
  for (; d + 8 <= n; d += 8)
    for (int64_t i = 0; i < 8; ++i) sums[i] += (x[d + i] - y[d + i]) * (x[d + i] - y[d + i]);
  for (; d < n; ++d) sums[d % 8] += (x[d] - y[d]) * (x[d] - y[d]);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

}  // namespace

EqualPoints::EqualPoints(const Points& points) : next(points.n, -1) {
  int64_t n_slots = 16;
  while (n_slots < 2 * points.n) n_slots *= 2;
  std::vector<int64_t> last(n_slots, -1);  // the last point of those equal, by their hash
  const size_t n_bytes = points.n_features * sizeof(double);
  for (int64_t point = 0; point < points.n; ++point) {
    int64_t slot = hash_of(points[point], points.n_features) & (n_slots - 1);
    while (last[slot] >= 0 && std::memcmp(points[last[slot]], points[point], n_bytes) != 0)
      slot = (slot + 1) & (n_slots - 1);
    if (last[slot] >= 0)
      next[last[slot]] = point;
    else
      firsts.push_back(point);
    last[slot] = point;
  }
}

Scan::Scan(const Points& points, const EqualPoints& equal, double tie_part, Members& members)
    : points_(points),
      equal_(equal),
      tie_part_(tie_part),
      members_(members),
      filter_(filter()),
      n_kept_(members.n() <= 4   ? 4
              : members.n() <= 8 ? 8
                                 : kLanes),
      reference_(points.n_features),
      centre_(points.n_features) {
  for (int64_t point : equal.firsts) {
    point = next_free(point);
    if (point >= 0) live_.push_back({0.0f, point});
  }
  const int64_t n_groups = (members.n() + kGroup - 1) / kGroup;
  offsets_.assign(n_groups * points.n_features * kGroup, 0.0f);
  centres_.resize(members.n());
  farthest_.resize(members.n());
  active_.resize(n_groups);
}

int64_t Scan::run() {
  if (members_.turns_left() == 0) return 0;
  pack();
  while (members_.turns_left() > 0) {
    if (is_wasteful()) pack();
    round();
  }
  return n_scores_;
}

// Sorts and packs the live rows anew, around a reference that suits the centroids of now.
// O(n D + n log n).
void Scan::pack() {
  if (!squares_.empty()) {
    int64_t n_live = 0;
    for (int64_t row = first_block_ * kRows; row < static_cast<int64_t>(live_.size()); ++row)
      if (is_live(row)) live_[n_live++] = live_[row];
    live_.resize(n_live);
  }
  n_live_ = static_cast<int64_t>(live_.size());
  move_reference();
  std::sort(live_.begin(), live_.end(),
            [](const Live& a, const Live& b) { return a.radius > b.radius; });
  set_scale();

  const int64_t n_features = points_.n_features, n_blocks = (n_live_ + kRows - 1) / kRows;
  if (storage_.empty()) storage_.resize(n_blocks * n_features * kRows + 16);
  const int64_t past = reinterpret_cast<uintptr_t>(storage_.data()) % 64 / sizeof(float);
  values_ = storage_.data() + (past ? 16 - past : 0);  // a vector within a cache line
  squares_.assign(n_blocks * kRows, kGone);
  radius_.resize(n_blocks);
  for (int64_t block = 0; block < n_blocks; ++block) pack_block(block);
  rows_ = {n_features, n_blocks, values_, squares_.data(), radius_.data()};
  first_block_ = 0;
  scores_at_check_ = n_scores_;
  for (int64_t member = 0; member < members_.n(); ++member) place(member);
}

// The mean of the centroids: they meet near the middle of the points that are left. The mean of the
// rows at the beginning, where centroids never meet, and where the rows lie close together and far
// from them.
void Scan::move_reference() {
  const int64_t n_features = points_.n_features;
  std::vector<double> mean(n_features, 0.0);
  for (const Live& row : live_) add(points_[row.point], n_features, mean.data());
  for (double& value : mean) value /= static_cast<double>(n_live_);
  const bool uses_rows = squares_.empty() || members_.last_two();
  if (!uses_rows) {
    std::fill(reference_.begin(), reference_.end(), 0.0);
    for (int64_t member = 0; member < members_.n(); ++member) {
      members_.centre(member, centre_.data());
      add(centre_.data(), n_features, reference_.data());
    }
    for (double& value : reference_) value /= static_cast<double>(members_.n());
    const double squares = measure_radii();
    if (fast_square(mean.data(), reference_.data(), n_features) * n_live_ < 0.9 * squares) return;
  }
  reference_.swap(mean);
  measure_radii();
}

// Returns the sum of squares.
double Scan::measure_radii() {
  double sum = 0.0;
  for (Live& row : live_) {
    const double square = fast_square(points_[row.point], reference_.data(), points_.n_features);
    row.radius = std::sqrt(square);
    sum += square;
  }
  return sum;
}

void Scan::set_scale() {
  double largest = live_.front().radius;
  for (int64_t member = 0; member < members_.n(); ++member) {
    members_.centre(member, centre_.data());
    const double square = fast_square(centre_.data(), reference_.data(), points_.n_features);
    largest = std::max(largest, std::sqrt(square) / kFar);
  }
  int exponent = 0;
  std::frexp(largest, &exponent);
  scale_ = std::ldexp(1.0, std::min(-exponent, 1000));
  is_out_of_range_ = false;
}

void Scan::pack_block(int64_t block) {
  const int64_t n_features = points_.n_features, first = block * kRows;
  const int64_t n = std::min(kRows, n_live_ - first);
  const double* x[kRows];
  for (int64_t i = 0; i < kRows; ++i) x[i] = points_[live_[first + std::min(i, n - 1)].point];
  float* values = values_ + first * n_features;
  for (int64_t d = 0; d < n_features; ++d)
    for (int64_t i = 0; i < kRows; ++i)
      values[d * kRows + i] = static_cast<float>((x[i][d] - reference_[d]) * scale_);
  for (int64_t i = 0; i < n; ++i) {
    const double radius = live_[first + i].radius * scale_;
    squares_[first + i] = static_cast<float>(radius * radius);
  }
  radius_[block] =
      static_cast<float>(live_[first].radius * scale_ * (1 + 4 * kRounding) + kSmallest);
}

// Brings the centroid of `member` into the filter.
void Scan::place(int64_t member) {
  const int64_t n_features = points_.n_features;
  members_.centre(member, centre_.data());
  float* offsets = offsets_of(member);
  double square = 0.0;
  for (int64_t d = 0; d < n_features; ++d) {
    const double offset = (centre_[d] - reference_[d]) * scale_;
    square += offset * offset;
    offsets[d * kGroup] = static_cast<float>(-2 * offset);
  }
  centres_[member].norm = std::sqrt(square) * (1 + kFineRounding * (n_features + 8));
  is_out_of_range_ = is_out_of_range_ || centres_[member].norm > kTooFar;
}

// The rounding of a score: of the row's and the offset's features, of D products and sums, of the
// square and the last sum; what float32 is too small for; and the rounding of the squared distance
// itself, which counts where the offset is far longer than the rows.
void Scan::set_margin(int64_t member) {
  FilterCentre& centre = centres_[member];
  const double radius = radius_[first_block_], product = 2 * radius * centre.norm;
  const double n_features = static_cast<double>(points_.n_features);
  centre.margin =
      kRounding * ((n_features + 8) * product + 4 * (radius * radius + product)) +
      kSmallest * (n_features + 8) * (radius + centre.norm + 1) +
      4 * kFineRounding * (n_features + 8) * (radius + centre.norm) * (radius + centre.norm);
}

// One turn of each member, or of as many as there are turns left.
void Scan::round() {
  const int64_t n = std::min(members_.n(), members_.turns_left());
  while (std::none_of(&squares_[0] + first_block_ * kRows,
                      &squares_[0] + (first_block_ + 1) * kRows,
                      [](float square) { return square != kGone; }))
    ++first_block_;
  for (int64_t member = 0; member < n; ++member) set_margin(member);
  n_scores_ += filter_.find_farthest(rows_, first_block_, offsets_.data(), centres_.data(), n,
                                     n_kept_, farthest_.data(), active_.data());
  for (int64_t member = 0; member < n; ++member) {
    const int64_t row = farthest_row(member);
    Live& live = live_[row];
    members_.take(live.point);
    live.point = next_free(live.point);
    if (live.point < 0) {
      squares_[row] = kGone;
      --n_live_;
    }
    place(member);
  }
}

int64_t Scan::next_free(int64_t point) const {
  while (point >= 0 && !members_.is_free(point)) point = equal_.next[point];
  return point;
}

// Among the rows kept of `member`, if they are sure to hold the farthest and all that tie with it.
int64_t Scan::farthest_row(int64_t member) {
  const Farthest& kept = farthest_[member];
  float top = kGone;
  for (int64_t i = 0; i < kept.n; ++i)
    if (kept.score[i] > top && is_live(kept.row[i])) top = kept.score[i];
  const double floor = tie_floor(top, centres_[member], tie_part_);
  if (kept.is_full || !(kept.least < floor)) return rescan(member);
  tied_.clear();
  for (int64_t i = 0; i < kept.n; ++i)
    if (kept.score[i] >= floor && is_live(kept.row[i])) tied_.push_back(kept.row[i]);
  return tied_.size() == 1 ? tied_[0] : lowest_tied(member, -1);
}

// The same over all rows. Where many tie, most are so surely: only the lowest of those counts.
int64_t Scan::rescan(int64_t member) {
  const FilterCentre& centre = centres_[member];
  scores_.resize(squares_.size());
  const int64_t begin = first_block_ * kRows;
  const int64_t end = kRows * filter_.score_rows(rows_, first_block_, offsets_of(member), centre,
                                                 tie_part_, scores_.data());
  n_scores_ += end - begin;
  const double top = *std::max_element(scores_.begin() + begin, scores_.begin() + end);
  const double floor = tie_floor(top, centre, tie_part_);
  const double square = centre.norm * centre.norm;
  const double sure = (top + square + centre.margin) * tie_part_ - square + centre.margin;
  int64_t sure_row = -1;
  tied_.clear();
  for (int64_t row = begin; row < end; ++row) {
    if (scores_[row] < floor || !is_live(row)) continue;
    if (scores_[row] < sure || scores_[row] >= top - 2 * centre.margin) tied_.push_back(row);
    if (scores_[row] >= sure && (sure_row < 0 || live_[row].point < live_[sure_row].point))
      sure_row = row;
  }
  return lowest_tied(member, sure_row);
}

// Of the tied rows, and one that is sure to tie or -1, the one with the lowest point.
int64_t Scan::lowest_tied(int64_t member, int64_t sure_row) {
  const auto is_lower = [&](int64_t row) {
    return sure_row < 0 || live_[row].point < live_[sure_row].point;
  };
  if (std::none_of(tied_.begin(), tied_.end(), is_lower)) return sure_row;
  members_.centre(member, centre_.data());
  distance_.resize(tied_.size());
  double largest = 0.0;
  for (size_t i = 0; i < tied_.size(); ++i) {
    distance_[i] =
        squared_distance(points_[live_[tied_[i]].point], centre_.data(), points_.n_features);
    largest = std::max(largest, distance_[i]);
  }
  for (size_t i = 0; i < tied_.size(); ++i)
    if (distance_[i] >= largest * tie_part_ && is_lower(tied_[i])) sure_row = tied_[i];
  return sure_row;
}

// Packs again where a third of the rows is gone, or where scores have cost as much as packing does
// and another reference would bring the centroids nearer: the nearer they are, the fewer rows a
// scan has to see.
bool Scan::is_wasteful() {
  if (is_out_of_range_) return true;
  const int64_t n_rows = (rows_.n_blocks - first_block_) * kRows;
  if (n_rows <= kFewRows) return false;
  if (2 * n_rows > 3 * n_live_) return true;
  if (n_scores_ - scores_at_check_ <= n_live_ * kScoresOfPacking) return false;
  scores_at_check_ = n_scores_;

  std::fill(centre_.begin(), centre_.end(), 0.0);  // the mean of the centroids' offsets
  double squares = 0.0;
  for (int64_t member = 0; member < members_.n(); ++member) {
    const float* offsets = offsets_of(member);
    for (int64_t d = 0; d < points_.n_features; ++d)
      centre_[d] -= offsets[d * kGroup] / (2.0 * static_cast<double>(members_.n()));
    squares += centres_[member].norm * centres_[member].norm;
  }
  double square = 0.0;
  for (double mean : centre_) square += mean * mean;
  return square * static_cast<double>(members_.n()) > kNearer * squares;
}

}  // namespace fastmte
