#pragma once

#include <google/protobuf/descriptor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "services/worker/call.h"

namespace runbus::worker {

// A protobuf service as this worker serves it: derive, and name a handler for each rpc in the
// constructor.
//
//   class Echo : public Service {
//    public:
//     Echo() : Service(*v1::EchoRequest::descriptor()->file()->FindServiceByName("EchoService"),
//     64) {
//       on<v1::EchoRequest>("Say", [](CallPtr call, const v1::EchoRequest& request) {
//         v1::EchoResponse response;
//         response.set_text(request.text());
//         call->finish(response);
//       });
//     }
//   };
//
// Handlers run on the worker's loop and must not block: start the work, keep the CallPtr, return.
// An exception that leaves a handler ends its call with kInternal and is logged.
class Service {
 public:
  // `capacity`: how many calls of this service at once; the broker keeps the rest.
  Service(const google::protobuf::ServiceDescriptor& descriptor, std::uint32_t capacity);
  virtual ~Service() = default;
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  struct Rpc {
    const google::protobuf::MethodDescriptor* descriptor = nullptr;
    std::unique_ptr<google::protobuf::Message> prototype;  // of the request
    std::function<void(CallPtr, const google::protobuf::Message&)> handler;
  };

  const google::protobuf::ServiceDescriptor& descriptor() const { return descriptor_; }
  std::uint32_t capacity() const { return capacity_; }
  // By JSON-RPC name or alias.
  const Rpc* find(std::string_view method) const;
  // Throws std::logic_error naming the rpc that has a JSON-RPC name and no handler.
  void check_complete() const;

 protected:
  // Throws std::logic_error when the service has no such rpc, it takes another message, it has no
  // JSON-RPC name, or it has a handler already.
  template <class Request>
  void on(std::string_view rpc, std::function<void(CallPtr, const Request&)> handler) {
    add(rpc, std::make_unique<Request>(),
        [handler = std::move(handler)](CallPtr call, const google::protobuf::Message& request) {
          handler(std::move(call), static_cast<const Request&>(request));
        });
  }

 private:
  void add(std::string_view rpc, std::unique_ptr<google::protobuf::Message> prototype,
           std::function<void(CallPtr, const google::protobuf::Message&)> handler);

  const google::protobuf::ServiceDescriptor& descriptor_;
  std::uint32_t capacity_;
  std::map<std::string, std::shared_ptr<Rpc>, std::less<>> rpcs_;
};

}  // namespace runbus::worker
