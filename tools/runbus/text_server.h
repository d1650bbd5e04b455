#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace runbus::cli {

// The least WebSocket server on loopback that Beast gives: what `runbus bench` compares the gateway
// with, and the gateway of the client's own tests. One thread runs its io_context. Not for clients
// one does not trust.
class TextServer {
 public:
  class Peer {
   public:
    virtual ~Peer() = default;
    virtual void send(std::string text) = 0;
    // Cuts the TCP connection, without a WebSocket close.
    virtual void drop() = 0;
    // Stops reading until the next call with false.
    virtual void hold(bool held) = 0;
    virtual std::string authorization() const = 0;
  };

  struct Events {
    std::function<void(const std::shared_ptr<Peer>&, std::string_view text)> on_text;
    // Decides before the upgrade, by the Authorization header; absent: everybody.
    std::function<bool(const std::string& authorization)> admit;
  };

  TextServer(boost::asio::io_context& io, Events events);
  ~TextServer();
  TextServer(const TextServer&) = delete;
  TextServer& operator=(const TextServer&) = delete;

  std::uint16_t port() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace runbus::cli
