#include "services/agent/input_queue.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace runbus::agent {

void InputQueue::open(UniqueFd pipe) {
  close();
  refused_ = false;
  pipe_ = std::move(pipe);
  if (!watch_.open(loop_, pipe_.get(), EPOLLOUT, [this](std::uint32_t) { flush(); })) {
    refused_ = true;
    pipe_.reset();
  }
}

void InputQueue::close() {
  watch_.clear();
  pipe_.reset();
}

std::size_t InputQueue::write(std::string_view bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t size = ::write(pipe_.get(), bytes.data() + done, bytes.size() - done);
    if (size >= 0) {
      done += static_cast<std::size_t>(size);
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      refused_ = true;
      kept_.clear();
      sent_ = 0;
      close();
      break;
    }
  }
  return done;
}

std::size_t InputQueue::take(std::string_view bytes) {
  std::size_t done = 0;
  if (pipe_ && kept_.empty()) {
    done = write(bytes);
  }
  if (refused_) {
    return done;
  }
  const std::size_t rest =
      std::min(bytes.size() - done, kLimit - std::min(kLimit, kept_.size() - sent_));
  if (rest > 0) {
    kept_.erase(0, sent_);
    sent_ = 0;
    kept_.append(bytes.substr(done, rest));
    watch_.set(EPOLLOUT);
  }
  return done + rest;
}

void InputQueue::end() {
  ended_ = true;
  if (pipe_ && kept_.empty()) {
    close();
  }
}

void InputQueue::flush() {
  sent_ += write(std::string_view(kept_).substr(sent_));
  if (!pipe_) {
    return;
  }
  if (sent_ == kept_.size()) {
    kept_.clear();
    sent_ = 0;
    if (ended_) {
      close();
      return;
    }
    // Not watched while there is nothing to write; that the reader went away shows at the next
    // write.
    watch_.set(0);
  }
}

}  // namespace runbus::agent
