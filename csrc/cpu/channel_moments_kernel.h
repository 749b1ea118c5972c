// The arithmetic of channel_moments for one kind of vector; see each_isa.h. Bound by memory.
#include "bn_parts.h"

namespace fastmte::FASTMTE_ISA {
namespace {

template <typename T>
MomentsFunction<T> channel_moments_kernel() {
  return moments<T>;
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
