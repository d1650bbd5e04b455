#pragma once

#include <string>
#include <zmq.hpp>

#include "proto/support/unique_fd.h"

// Binding a socket so that only those can reach it who may.
namespace runbus::broker {

bool is_ipc(const std::string& endpoint);
bool is_tcp(const std::string& endpoint);

// Binds to ipc://PATH: the directory is made with mode 0700 if it is not there and must not be
// writable by others, the socket gets mode 0600, and a lock beside it keeps a second process from
// taking the path over. The lock is held for as long as the result lives. Throws std::runtime_error
// that says what is wrong.
UniqueFd bind_ipc(zmq::socket_t& socket, const std::string& endpoint);

// Binds to tcp://HOST:PORT; port 0 is any. Returns the endpoint as it came to be. Throws
// std::runtime_error.
std::string bind_tcp(zmq::socket_t& socket, const std::string& endpoint);

}  // namespace runbus::broker
