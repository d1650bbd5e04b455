// The output half of an execution: from the pipes to the log and to who is attached.
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "services/agent/attachment.h"
#include "services/agent/execution.h"
#include "services/agent/identity.h"

namespace runbus::agent {

void Execution::on_readable(OutputPipe& pipe) {
  read_pipe(pipe);
  if (state_ == State::kDraining) {
    continue_draining();
  } else {
    update_reading();
  }
}

void Execution::read_pipe(OutputPipe& pipe) {
  std::uint64_t room = services_.buffer.size();
  if (!attachments_.empty() && !(drain_all_ && state_ == State::kDraining)) {
    // What is unread must not be evicted by this.
    room = std::min(room, log_.capacity() - std::min(log_.capacity() - 1, unread()));
  }
  if (state_ == State::kDraining) {
    room = std::min(room, pipe.left);
  }
  const ssize_t size = ::read(pipe.fd.get(), services_.buffer.data(), room);
  if (size > 0) {
    pipe.left -= std::min<std::uint64_t>(pipe.left, static_cast<std::uint64_t>(size));
    append(pipe.stream, {services_.buffer.data(), static_cast<std::size_t>(size)});
  } else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
    pipe.watch.clear();
    pipe.fd.reset();
  } else if (errno == EAGAIN) {
    pipe.left = 0;
  }
}

void Execution::append(int stream, std::string_view bytes) {
  bool over = false;
  if (spawn_.max_output() != 0) {
    const std::uint64_t room =
        spawn_.max_output() - std::min(spawn_.max_output(), log_.end_offset());
    over = bytes.size() > room;
    bytes = bytes.substr(0, room);
  }
  const std::uint64_t offset = log_.end_offset();
  {
    const AsAgent owner;
    log_.append(stream, bytes);
  }
  for (Attachment* attachment : attachments_) {
    attachment->push(stream, offset, bytes);
  }
  if (over) {
    kill("", "output");
  }
}

std::uint64_t Execution::unread() const {
  std::uint64_t fastest = 0;
  for (Attachment* attachment : attachments_) {
    fastest = std::max(fastest, attachment->position());
  }
  return log_.end_offset() - std::min(log_.end_offset(), std::max(fastest, log_.first_offset()));
}

bool Execution::may_read() const {
  if (state_ == State::kStarting) {
    return false;  // it may print before its helper says that it runs
  }
  if (attachments_.empty() || (drain_all_ && state_ == State::kDraining)) {
    return true;
  }
  if (state_ == State::kDraining && unread() + pipes_[0].left + pipes_[1].left <= log_.capacity()) {
    return true;
  }
  return unread() < std::min(kWindow, log_.capacity() / 2);
}

void Execution::update_reading() {
  const std::uint32_t events = may_read() ? static_cast<std::uint32_t>(EPOLLIN) : 0;
  for (OutputPipe& pipe : pipes_) {
    pipe.watch.set(events);
  }
}

void Execution::on_reader_moved() {
  if (!ended()) {
    update_reading();
  }
}

void Execution::add(Attachment& attachment) {
  attachments_.push_back(&attachment);
  on_reader_moved();
}

void Execution::remove(Attachment& attachment) {
  std::erase(attachments_, &attachment);
  on_reader_moved();
}

void Execution::start_draining() {
  state_ = State::kDraining;
  for (OutputPipe& pipe : pipes_) {
    int left = 0;
    if (pipe.fd && ::ioctl(pipe.fd.get(), FIONREAD, &left) == 0) {
      pipe.left = static_cast<std::uint64_t>(std::max(left, 0));
    }
  }
  continue_draining();
}

void Execution::continue_draining() {
  bool done = true;
  for (OutputPipe& pipe : pipes_) {
    while (pipe.fd && pipe.left > 0 && may_read()) {
      read_pipe(pipe);
    }
    if (pipe.fd && pipe.left > 0) {
      done = false;
    } else {
      pipe.watch.clear();
      pipe.fd.reset();
    }
  }
  if (done) {
    finish_step();
  } else {
    update_reading();
  }
}

// ---- the log, which is the agent's own ----------------------------------------------------------

void Execution::create_log() {
  v1::Listing::Entry head;
  head.set_execution_id(id());
  head.set_running(true);
  head.set_tag(tag());
  head.set_started_ms(started_ms_);
  const AsAgent owner;
  log_.create(services_.log_directory, id(), head.SerializeAsString(), &services_.next_log);
}

void Execution::finish_log() {
  const AsAgent owner;
  log_.finish(exited_.SerializeAsString());
}

void Execution::remove_log() {
  const AsAgent owner;
  log_.remove(&services_.next_log);
}

log::Piece Execution::read_log(log::RecordReader& reader, std::uint64_t offset, char* to,
                               std::size_t room) {
  const AsAgent owner;
  return log_.read(reader, offset, to, room);
}

}  // namespace runbus::agent
