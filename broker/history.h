#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <string>
#include <string_view>

#include "broker/options.h"
#include "broker/state.h"
#include "runbus/v1/bus.pb.h"

// The events that were published, numbered per topic and remembered within bounds: so many of each
// topic, so many bytes of all, so many topics. The topic used least recently makes room for a new
// one; should it come back it goes on above every number that any forgotten topic had reached, so
// that numbers never repeat within the epoch.
namespace runbus::broker {

class History {
 public:
  History(std::string epoch, const CoreOptions& options);

  // Numbers the event, remembers it and returns it serialized.
  const std::string& append(v1::Event& event);

  // What came after the position. A position of another epoch counts as the beginning.
  v1::HistoryResponse read(const v1::HistoryRequest& request) const;

  // The topics that had events after a moment.
  v1::TopicsResponse list(const v1::TopicsRequest& request) const;

  std::size_t bytes() const { return bytes_; }
  std::size_t topics() const { return topics_.size(); }

 private:
  struct Topic;
  struct Record {
    Topic* topic = nullptr;
    std::uint64_t offset = 0;
    std::uint64_t number = 0;  // events_ with this one
    std::string event;
  };
  struct Topic {
    std::string name;
    std::uint64_t base = 0;  // the offset before its first event's
    std::uint64_t last = 0;
    std::uint64_t written = 0;  // events_ with its last event
    std::deque<std::list<Record>::iterator> records;
    std::list<Topic*>::iterator place;
  };

  Topic& topic(const std::string& name);
  void forget_oldest(Topic& topic);

  std::string epoch_;
  std::size_t max_events_;
  std::size_t max_bytes_;
  std::size_t max_topics_;
  std::uint64_t floor_ = 0;
  std::uint64_t events_ = 0;
  std::size_t bytes_ = 0;
  TextMap<Topic> topics_;
  std::list<Topic*> recent_;   // used last, first
  std::list<Record> records_;  // oldest first
};

}  // namespace runbus::broker
