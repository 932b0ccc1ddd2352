// Event data: Protobuf ⇄ JSON by the registry, and CloudEvents in structured JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "events/event.h"

namespace leat::events {

// How many events one publish may hold.
inline constexpr size_t kEventsMax = 10'000;

// `text` as a JSON string with its quotes, appended. Bytes that are no UTF-8 become U+FFFD.
void AppendJsonString(std::string_view text, std::string* out);

// Data of a registered type as JSON text on one line: proto3's JSON mapping with the names of the .proto, except that
// bytes fields are written as their (leat.events.format) says. Fields with default values are left out.
// Errors: kInvalid for an unknown type or bytes that are not that message.
Result<std::string> DataToJson(std::string_view type, std::string_view protobuf);
// The reverse. Unknown fields, wrong types and numbers out of range are errors that name the field.
// Errors: kInvalid.
Result<std::string> DataFromJson(std::string_view type, std::string_view json);

// Structured JSON (application/cloudevents+json), one line. `position` may be empty. Data of a registered Protobuf type
// is written as JSON under "data"; other JSON data as it is; other bytes as "data_base64".
std::string EventToJson(const EventView& event, std::string_view position = {});
// What becomes of an id, a source and a time that are not there.
enum class Absent : uint8_t {
  kMade,  // by whoever publishes: a UUIDv7, "leat", and now
  kKept,  // by whoever reads: the same bytes give the same event every time, with empty ones and 0
};
// One CloudEvent or an array of up to kEventsMax, structured; an attribute that is null is absent. The type must be
// registered, and the data, if JSON, is turned into Protobuf. Errors: kInvalid, naming the attribute.
Result<std::vector<Event>> EventsFromJson(std::string_view json, Absent absent = Absent::kMade);
// The same checks for an event that was put together elsewhere: a registered type and data that is its message.
Status CheckEvent(const EventView& event);

}  // namespace leat::events
