// dkmeans_assign for many points: scans only the outer shells of the free points.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "dkmeans_filter.h"
#include "dkmeans_members.h"

namespace fastmte {

// For each point the next one that equals it, or -1; and which points have no earlier equal.
struct EqualPoints {
  explicit EqualPoints(const Points& points);

  std::vector<int64_t> next;
  std::vector<int64_t> firsts;
};

// Deals all points, in rounds of one turn a member. Within a round no member's centroid depends on
// another's choice, so one pass over the free points serves all of them. The points are sorted by
// their distance from a reference near all centroids: a pass ends where no later point can be among
// the farthest, which is early, since members take the outermost points and their centroids meet.
class Scan {
 public:
  Scan(const Points& points, const EqualPoints& equal, double tie_part, Members& members);

  // Returns how many distances were computed.
  int64_t run();

 private:
  static constexpr float kGone = -std::numeric_limits<float>::infinity();

  void pack();
  void move_reference();
  double measure_radii();
  void set_scale();
  void pack_block(int64_t block);
  void place(int64_t member);
  void set_margin(int64_t member);
  int64_t next_free(int64_t point) const;
  void round();
  int64_t farthest_row(int64_t member);
  int64_t rescan(int64_t member);
  int64_t lowest_tied(int64_t member, int64_t sure_row);
  void take(int64_t row);
  bool is_wasteful();

  const Points& points_;
  const EqualPoints& equal_;
  const double tie_part_;
  Members& members_;
  const Filter filter_;
  const int64_t n_kept_;

  float* offsets_of(int64_t member) {  // (n_features) at a stride of kGroup
    return offsets_.data() + member / kGroup * kGroup * points_.n_features + member % kGroup;
  }
  bool is_live(int64_t row) const { return squares_[row] != kGone; }

  struct Live {
    double radius;
    int64_t point;  // the lowest free one of those that are equal
  };
  std::vector<Live> live_;         // the rows, by falling radius
  std::vector<double> reference_;  // (n_features)
  double scale_ = 1.0;             // a power of two that brings the rows to about 1
  std::vector<float> storage_;
  float* values_ = nullptr;  // in the storage
  std::vector<float> squares_, radius_;
  FilterRows rows_{};
  int64_t first_block_ = 0, n_live_ = 0;

  std::vector<float> offsets_;         // (groups, n_features, 8)
  std::vector<FilterCentre> centres_;  // (n_members)
  std::vector<Farthest> farthest_;     // (n_members)
  std::vector<int32_t> active_;        // (groups)
  std::vector<double> centre_;         // (n_features)
  std::vector<float> scores_;          // of a rescan
  std::vector<int64_t> tied_;          // rows that the scores cannot tell apart
  std::vector<double> distance_;       // of those
  int64_t n_scores_ = 0, scores_at_check_ = 0;
  bool is_out_of_range_ = false;  // an offset needs another scale
};

}  // namespace fastmte
