// An event as an AMQP message (docs/transports.md): attributes are headers "cloudEvents_<name>",
// the body is the bare data. Internal to this folder.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bus/attributes.h"
#include "core/result.h"
#include "events/event.h"

// Of rabbitmq-c, whose headers stay in the .cc files.
struct amqp_basic_properties_t_;
struct amqp_table_entry_t_;

namespace leat::bus::rabbitmq {

// Attributes travel in one frame of 128 KiB.
inline constexpr size_t kAttributesBytesMax = 100u << 10;

// An event's attributes as a message's headers; keeps its memory from event to event. Not
// thread-safe.
class EventHeaders {
 public:
  EventHeaders();
  ~EventHeaders();
  EventHeaders(const EventHeaders&) = delete;
  EventHeaders& operator=(const EventHeaders&) = delete;

  // Headers, content type and type: good as long as the event, and until the next one is set.
  void Set(const events::EventView& event, amqp_basic_properties_t_* properties);

 private:
  AttributeTexts texts_;
  std::deque<std::string> names_;
  std::vector<amqp_table_entry_t_> entries_;
};

// Whether AMQP takes the event: CheckLimits, and its attributes in one frame. Errors: kInvalid.
Status CheckMessage(const events::EventView& event);

// The event of a message, also with headers "cloudEvents:<name>" or "ce-<name>", and with numbers
// and times in types of AMQP's own. `structured` keeps what is not in the message as it is written,
// such as one in structured JSON. Errors: kInvalid.
Status ReadEvent(const amqp_basic_properties_t_& properties, std::string_view body,
                 events::EventView* event, std::vector<events::Event>* structured);

}  // namespace leat::bus::rabbitmq
