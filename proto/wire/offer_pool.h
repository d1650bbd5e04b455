#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/dynamic_message.h>

#include <memory>
#include <string>

#include "runbus/v1/bus.pb.h"

// One offer's descriptors in a pool of their own: a worker's files may say anything of any name,
// also of ours, and mean it for that worker alone.
namespace runbus::wire {

struct OfferPool {
  google::protobuf::DescriptorPool pool;
  google::protobuf::DynamicMessageFactory messages{&pool};  // goes before the pool
  const google::protobuf::ServiceDescriptor* service = nullptr;
};

// Null, with the reason in `problem`, for a set that is not one, is over the bounds below, does not
// hold together, or has no such service.
std::unique_ptr<OfferPool> load_offer(const v1::ServiceOffer& offer, std::string& problem);

// Building descriptors and message types takes time and stack by these numbers, not by bytes alone.
struct OfferBounds {
  static constexpr std::size_t kBytes = 1U << 20U;
  static constexpr int kFiles = 256;
  static constexpr int kMessages = 1024;  // the depth to which making a message type may recurse
  static constexpr int kFieldsPerType = 1024;  // each takes memory in every message of the type
  static constexpr int kNesting = 32;          // of message declarations
  static constexpr int kRangesPerType = 128;   // reserved and extension ranges are checked pairwise
};

// The comment of a declaration, without the blanks that follow its comment marks.
std::string comment_of(const google::protobuf::SourceLocation& location);

template <class Declaration>
std::string comment_of(const Declaration& declaration) {
  google::protobuf::SourceLocation location;
  return declaration.GetSourceLocation(&location) ? comment_of(location) : std::string();
}

}  // namespace runbus::wire
