// The envelope: a CloudEvent (CloudEvents 1.0.2) with the extensions Leat uses, in memory and in binary form.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/result.h"

namespace leat::events {

inline constexpr std::string_view kProtobufContentType = "application/protobuf";
inline constexpr std::string_view kJsonContentType = "application/json";
// Limits on what a peer may send; a longer one is refused with kInvalid.
inline constexpr size_t kAttributeBytesMax = 4096;
inline constexpr size_t kExtensionsMax = 64;
inline constexpr size_t kDataBytesMax = 16u << 20;

// The input an event was decided from, and its place among what was decided from it.
struct Cause {
  std::string_view topic;
  uint32_t partition = 0;
  uint64_t offset = 0;
  uint32_t n = 0;  // 1..m
  uint32_t m = 0;

  bool operator==(const Cause&) const = default;
};

// A CloudEvent whose text lies in somebody else's buffer; valid as long as that is. An empty attribute is absent.
struct EventView {
  std::string_view type;
  int64_t time_us = 0;  // microseconds since 1970
  std::optional<Cause> cause;
  std::string_view id;  // empty with a cause: see EventId()
  std::string_view source;
  std::string_view subject;
  std::optional<uint64_t> streamversion;
  // In the log of its source; only of events that a relay brought to a topic.
  std::optional<uint64_t> position;
  std::string_view partitionkey;
  std::string_view datacontenttype;  // absent: kProtobufContentType
  std::string_view dataschema;
  std::string_view correlationid;
  std::string_view causationid;
  std::string_view traceparent;
  std::vector<std::pair<std::string_view, std::string_view>> extensions;
  std::string_view data;
};

// An EventView that owns its text. Movable and copyable.
class Event {
 public:
  Event() = default;
  explicit Event(const EventView& view);  // copies
  Event(const Event& other) : Event(other.view_) {}
  Event(Event&& other) noexcept = default;
  Event& operator=(const Event& other) { return *this = Event(other); }
  Event& operator=(Event&& other) noexcept = default;

  const EventView& view() const { return view_; }

 private:
  std::vector<char> text_;  // a vector's buffer stays where it is when moved; a short string's does not
  EventView view_;
};

// What every store and publisher asks before it takes an event: the limits above, a time that can be written, and
// extension names of 1 to 64 lower-case letters and digits. Errors: kInvalid, naming the attribute.
Status CheckLimits(const EventView& event);

// The id attribute: as given, or for a decided event "<topic>/<partition>@<offset>#<n>" of its cause, so that deciding
// again gives the same one.
std::string EventId(const EventView& event);

// Appends the binary form (message leat.envelope.v1.Envelope).
void EncodeEvent(const EventView& event, std::string* out);
// Views into `bytes`. Unknown fields are passed over. Errors: kCorrupt.
Result<EventView> DecodeEvent(std::string_view bytes);

// A stream is named "<category>-<rest>"; without '-' the whole name is the category.
inline std::string_view CategoryOf(std::string_view stream) {
  return stream.substr(0, stream.find('-'));
}

}  // namespace leat::events
