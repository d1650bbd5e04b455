#pragma once

#include <cstddef>
#include <memory>
#include <unordered_set>
#include <vector>

#include "gateway/close_reason.h"
#include "gateway/coroutine.h"

namespace runbus::gateway {

class Connections;

// An open socket, whatever it speaks. Listed from its making to its end.
class Connection {
 public:
  explicit Connection(Connections& connections);
  virtual ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Called every second or so: ends the connection when one of its times has passed.
  virtual void check(Clock::time_point now) = 0;
  // The one way in which it ends; the first reason stays.
  virtual void close(CloseReason reason) = 0;
  // Closes the socket at once, with nothing said.
  virtual void abort() = 0;

 protected:
  Connections& connections() { return connections_; }

 private:
  Connections& connections_;
};

// All of the process. Outlives them.
class Connections {
 public:
  std::size_t size() const { return all_.size(); }
  // `visit` may end connections.
  template <class Visit>
  void each(const Visit& visit) {
    const std::vector<Connection*> now(all_.begin(), all_.end());
    for (Connection* connection : now) {
      if (all_.contains(connection)) {
        visit(*connection);
      }
    }
  }

 private:
  friend class Connection;
  std::unordered_set<Connection*> all_;
};

inline Connection::Connection(Connections& connections) : connections_(connections) {
  connections_.all_.insert(this);
}
inline Connection::~Connection() { connections_.all_.erase(this); }

}  // namespace runbus::gateway
