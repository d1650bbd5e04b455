#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "broker/state.h"

// Calls that workers say they have although this broker gave none of them away: they came by a
// broker that is gone. Their callers say them again, here, before or after. Bounded in number and
// age; a claim that nobody asks for is forgotten.
namespace runbus::broker {

class Claims {
 public:
  void put(std::string_view call_id, std::string_view worker_id, std::uint64_t expires);
  // The worker that has the call, or empty; the claim is no longer here then.
  std::string take(std::string_view call_id);
  void expire(std::uint64_t now);

 private:
  static constexpr std::size_t kMost = 65'536;

  struct Claim {
    std::string worker;
    std::uint64_t expires = 0;
  };
  TextMap<Claim> claims_;
};

}  // namespace runbus::broker
