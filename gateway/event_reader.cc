#include "gateway/event_reader.h"

#include <algorithm>

#include "events/registry.h"
#include "eventstore/reader.h"
#include "runtime/inbox.h"

namespace leat::gateway {
namespace {

constexpr size_t kStepBytes = 1u << 20;
constexpr auto kPatience = std::chrono::seconds(30);

std::unexpected<Error> Stale(const events::Position& position) {
  return Fail(ErrorClass::kConflict,
              "the position " + events::FormatPositions({position}) +
                  " is of another life of the log: it was created anew since",
              "read from the beginning, or leave out what stands behind '~'");
}

}  // namespace

Result<std::unique_ptr<EventReader>> EventReader::Open(const EventQuery& query,
                                                       bus::Transport* transport) {
  std::unique_ptr<EventReader> reader(new EventReader);
  reader->query_ = query;
  reader->transport_ = transport;
  LEAT_ASSIGN(const auto topics, transport->Topics());
  std::string wanted = query.topic;
  if (query.since_us && query.topic.empty()) {
    return Invalid("since: goes with one topic", "name a topic");
  }
  if (query.follow && query.to) {
    return Invalid("to: does not go with follow, which has no end", "leave out one of them");
  }
  for (const auto* position : {&query.from, &query.to}) {
    if (!*position) continue;
    if (!wanted.empty() && query.topic != (*position)->topic && !query.topic.empty()) {
      return Invalid("the position names topic " + (*position)->topic + ", not " + query.topic,
                     "leave the topic out, or use a position of it");
    }
  }
  bool found = false;
  for (const bus::TopicInfo& topic : topics) {
    if (!wanted.empty() && topic.name != wanted) continue;
    found = true;
    for (uint32_t partition = 0; partition < topic.partitions; ++partition) {
      Source source;
      source.topic = topic.name;
      source.partition = partition;
      LEAT_ASSIGN(const auto end, transport->End(topic.name, partition));
      source.incarnation = end.incarnation;
      source.end = end.offset;
      const auto key = [](const auto& x) { return std::tie(x.topic, x.partition); };
      if (query.from) {
        if (key(source) < key(*query.from)) continue;
        if (key(source) == key(*query.from)) {
          if (query.from->incarnation != 0 && query.from->incarnation != source.incarnation) {
            return Stale(*query.from);
          }
          source.next = query.from->offset;
          // What was asked for by its name is there, or an error; 0 is just the beginning.
          source.begun = source.next > 0;
        }
      }
      if (query.since_us && (!query.from || key(source) > key(*query.from))) {
        LEAT_ASSIGN(source.next, transport->OffsetAt(topic.name, partition, *query.since_us));
      }
      if (query.to) {
        if (key(source) > key(*query.to)) continue;
        if (key(source) == key(*query.to)) {
          if (query.to->incarnation != 0 && query.to->incarnation != source.incarnation) {
            return Stale(*query.to);
          }
          source.end = std::min(source.end, query.to->offset + 1);
        }
      }
      reader->sources_.push_back(std::move(source));
    }
  }
  if (!wanted.empty() && !found) {
    return Fail(ErrorClass::kNotFound, "there is no topic " + wanted, "see `leat topics`");
  }
  if (query.from && std::none_of(topics.begin(), topics.end(), [&](const auto& topic) {
        return topic.name == query.from->topic && query.from->partition < topic.partitions;
      })) {
    return Fail(ErrorClass::kNotFound, "there is no partition " + query.from->topic + "/" +
                                           std::to_string(query.from->partition),
                "see `leat topics`");
  }
  reader->done_ = reader->sources_.empty() && !query.follow;
  return reader;
}

bool EventReader::Source::Counts(const bus::Message& message) {
  // Read from somewhere in the middle, the first event of an owner tells where its log is, or, if that is one who had lost
  // it, the first of a later one; so it does behind a claim there, and behind events of nobody's, of which repetitions are
  // shown here.
  const uint64_t epoch = message.event.position ? runtime::EpochOf(message.event.source) : 0;
  const bool is_claim = message.event.type == events::kShardClaimed;
  if (input.next == 0) middle = message.offset > 0;
  const bool first = middle && input.epoch == 0;
  if (epoch > 0 &&
      (first || (guessed && epoch > input.epoch) || (unowned && epoch == input.epoch))) {
    input.epoch = epoch;
    input.next_position = *message.event.position;
    guessed |= first;
    unowned = false;
  }
  if (is_claim) {
    unowned |= guessed || first;
    guessed = false;
  } else {
    unowned |= epoch == 0 && input.epoch == 0;
  }
  input.next = message.offset;
  // What the services would stop at is shown: it is what somebody wants to look at.
  const auto admission = runtime::Admit(topic, message, &input, nullptr);
  return !admission || admission->counts();
}

bool EventReader::Matches(const events::EventView& event) const {
  return eventstore::MatchesPattern(query_.type, event.type) &&
         eventstore::MatchesPattern(query_.stream, event.subject);
}

Status EventReader::Step(std::vector<Item>* items) {
  items->clear();
  size_t idle = 0;
  while (!done_) {
    caught_up_ = query_.follow && idle == sources_.size();
    if (caught_up_) return {};
    if (current_ == sources_.size()) {
      if (!query_.follow) {
        done_ = true;
        return {};
      }
      current_ = 0;
    }
    Source& source = sources_[current_];
    if (query_.follow) {
      LEAT_ASSIGN(const auto end, transport_->End(source.topic, source.partition));
      source.end = end.offset;
    }
    if (source.next >= source.end) {
      source.subscription.reset();
      ++current_;
      ++idle;
      continue;
    }
    if (source.subscription == nullptr) {
      LEAT_ASSIGN(source.subscription,
                  transport_->Subscribe(source.topic, source.partition, source.next));
    }
    bus::PollLimits limits;
    limits.messages_max = kStepMessages;
    limits.bytes_max = kStepBytes;
    const bool at_once = transport_->features().end_at_once;
    if (at_once) limits.timeout = std::chrono::milliseconds(0);
    const auto polled = source.subscription->Poll(limits, &batch_);
    if (!polled && polled.error().error_class == ErrorClass::kNotFound && !source.begun) {
      // Its beginning is what retention has left.
      LEAT_ASSIGN(const uint64_t first, transport_->OffsetAt(source.topic, source.partition, 0));
      if (first <= source.next) return polled;
      source.next = first;
      source.subscription->Seek(first);
      continue;
    }
    LEAT_TRY(polled);
    if (batch_.messages.empty()) {
      if (!at_once && batch_.vacant_to < source.end) {
        // It is there, and will come.
        const auto now = std::chrono::steady_clock::now();
        if (source.waits_until == std::chrono::steady_clock::time_point()) source.waits_until = now + kPatience;
        if (now < source.waits_until) {
          if (query_.follow) ++current_;
          return {};
        }
        return Fail(ErrorClass::kUnavailable,
                    source.topic + ", partition " + std::to_string(source.partition) +
                        ": nothing comes of offsets " + std::to_string(source.next) + " to " +
                        std::to_string(source.end),
                    "see whether the broker runs; the last of them may be its own");
      }
      // Purged events at the end leave nothing to show.
      source.waits_until = {};
      source.next = std::max(source.end, batch_.vacant_to);
      continue;
    }
    source.waits_until = {};
    source.begun = true;
    // Following, what came since the end was asked for counts too: the subscription is behind it now.
    if (query_.follow) {
      source.end = std::max({source.end, batch_.messages.back().offset + 1, batch_.vacant_to});
    }
    bool whole = true;
    for (const bus::Message& message : batch_.messages) {
      if (message.offset >= source.end) {
        source.next = source.end;  // all before it is vacant
        break;
      }
      if (given_ == query_.limit) {
        whole = false;
        break;
      }
      source.next = message.offset + 1;
      if (!source.Counts(message) || !Matches(message.event)) continue;
      items->push_back({source.topic, source.partition, source.incarnation, &message});
      ++given_;
    }
    if (whole && batch_.vacant_to >= source.end) source.next = source.end;
    if (given_ == query_.limit) done_ = true;
    if (query_.follow) ++current_;  // each has its turn
    return {};
  }
  return {};
}

std::string EventReader::NextToken() const {
  for (size_t i = current_; i < sources_.size(); ++i) {
    const Source& source = sources_[i];
    if (source.next < source.end) {
      return events::FormatPosition(source.topic, source.partition, source.next,
                                    source.incarnation);
    }
  }
  return {};
}

}  // namespace leat::gateway
