// The members of dkmeans_assign: what each has taken, its centroid, and whose turn it is.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dkmeans_assign.h"

namespace fastmte {

// The points of one call, after shift and scale.
struct Points {
  const double* values;  // (n, n_features), about 1
  int64_t n, n_features;

  const double* operator[](int64_t point) const { return values + point * n_features; }
};

// Each sum keeps the order of the features: the one arithmetic that decides.
inline double squared_distance(const double* x, const double* centre, int64_t n_features) {
  double sum = 0.0;
  for (int64_t d = 0; d < n_features; ++d) {
    const double difference = x[d] - centre[d];
    sum += difference * difference;
  }
  return sum;
}

class Members {
 public:
  // labels (n), order (n): written here.
  Members(const Points& points, const int64_t* seeds, int64_t n_seeds, bool last_two,
          int64_t* labels, int64_t* order)
      : points_(points),
        n_members_(n_seeds / seeds_of_member(last_two)),
        n_seeds_(n_seeds),
        last_two_(last_two),
        labels_(labels),
        order_(order),
        sums_(n_members_ * points.n_features, 0.0),
        last_(n_members_) {
    std::fill(labels, labels + points.n, -1);
    for (int64_t i = 0; i < n_seeds; ++i) {
      const int64_t member = i / seeds_of_member(last_two);
      add(seeds[i], member);
      labels[seeds[i]] = member;
      order[i] = last_[member] = seeds[i];
    }
  }

  int64_t n() const { return n_members_; }
  bool last_two() const { return last_two_; }
  int64_t n_features() const { return points_.n_features; }
  int64_t turns_left() const { return points_.n - n_seeds_ - turn_; }
  bool is_free(int64_t point) const { return labels_[point] < 0; }

  // The centroid (n_features) with which `member` takes part in its next turn.
  void centre(int64_t member, double* centre) const {
    const double* sum = &sums_[0] + member * n_features();
    const int64_t turn = turn_ + (member - turn_ % n_members_ + n_members_) % n_members_;
    const double size = size_at_turn(turn, n_members_, last_two_);
    for (int64_t d = 0; d < n_features(); ++d) centre[d] = sum[d] / size;
  }

  // The member whose turn it is takes `point`.
  void take(int64_t point) {
    const int64_t member = member_of_turn(turn_, n_members_);
    if (last_two_) {
      double* sum = &sums_[0] + member * n_features();
      std::copy_n(points_[last_[member]], n_features(), sum);
    }
    add(point, member);
    labels_[point] = member;
    last_[member] = point;
    order_[n_seeds_ + turn_++] = point;
  }

 private:
  void add(int64_t point, int64_t member) {
    double* sum = &sums_[0] + member * n_features();
    const double* x = points_[point];
    for (int64_t d = 0; d < n_features(); ++d) sum[d] += x[d];
  }

  const Points& points_;
  const int64_t n_members_, n_seeds_;
  const bool last_two_;
  int64_t *labels_, *order_;
  std::vector<double> sums_;  // (n_members, n_features)
  std::vector<int64_t> last_;
  int64_t turn_ = 0;
};

}  // namespace fastmte
