#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <variant>

#include "runbus/v1/agent.pb.h"

namespace runbus::agent {

namespace v1 = ::runbus::v1::agent;

// Why a request was refused, as the worker is told.
struct Failure {
  v1::Failed::Reason reason = v1::Failed::SYSTEM;
  std::string detail;
  int error_number = 0;
};

template <class T>
using Outcome = std::variant<T, Failure>;

inline Failure invalid(std::string detail) { return {v1::Failed::INVALID, std::move(detail), 0}; }

// "what: strerror".
inline Failure system_failure(const std::string& what, int error) {
  return {v1::Failed::SYSTEM, what + ": " + std::strerror(error), error};
}

}  // namespace runbus::agent
