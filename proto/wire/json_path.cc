#include "proto/wire/json_path.h"

#include <algorithm>
#include <vector>

#include "proto/wire/text.h"

namespace runbus::wire {
namespace {

// Of the whole path: field names come from a worker's schema, which is not ours either.
constexpr std::size_t kMaxPath = 512;

}  // namespace

std::string to_string(const JsonPath& path) {
  std::vector<const JsonPath*> steps;
  for (const JsonPath* at = &path; at->step != JsonPath::Step::kRoot; at = at->parent) {
    steps.push_back(at);
  }
  std::string text;
  std::size_t echo = kMaxEcho;
  for (auto at = steps.rbegin(); at != steps.rend(); ++at) {
    if ((*at)->step == JsonPath::Step::kIndex) {
      text.append("[").append(std::to_string((*at)->index)).append("]");
      continue;
    }
    if (!text.empty()) {
      text.push_back('.');
    }
    if ((*at)->step == JsonPath::Step::kField) {
      text.append((*at)->name);
      continue;
    }
    text.append(clip((*at)->name, echo));
    echo -= std::min(echo, (*at)->name.size());
  }
  return clip(text, kMaxPath);
}

}  // namespace runbus::wire
