#include "bus/attributes.h"

#include <limits>

#include "core/bytes.h"
#include "core/clock.h"
#include "events/codec.h"

namespace leat::bus {
namespace {

constexpr std::string_view kStructuredContentType = "application/cloudevents+json";

// Cuts what lies before `end` off the front of `text`; false when it is not there.
bool Cut(std::string_view* text, char end, std::string_view* part) {
  const size_t at = text->find(end);
  if (at == std::string_view::npos) return false;
  *part = text->substr(0, at);
  text->remove_prefix(at + 1);
  return true;
}

template <typename T>
bool Number(std::string_view text, T* out) {
  const auto value = core::ParseUint64(text);
  if (!value || *value > std::numeric_limits<T>::max()) return false;
  *out = static_cast<T>(*value);
  return true;
}

bool ParseCause(std::string_view text, events::Cause* cause) {
  std::string_view partition, offset, n;
  return Cut(&text, '/', &cause->topic) && Cut(&text, '@', &partition) &&
         Cut(&text, '#', &offset) && Cut(&text, '/', &n) && !cause->topic.empty() &&
         Number(partition, &cause->partition) && Number(offset, &cause->offset) &&
         Number(n, &cause->n) && Number(text, &cause->m);
}

}  // namespace

void WriteAttributeTexts(const events::EventView& event, AttributeTexts* texts) {
  texts->time = core::FormatTime(event.time_us);
  texts->id.clear();
  texts->version.clear();
  texts->position.clear();
  texts->cause.clear();
  if (event.streamversion) texts->version = std::to_string(*event.streamversion);
  if (event.position) texts->position = std::to_string(*event.position);
  if (!event.cause) return;
  if (event.id.empty()) texts->id = events::EventId(event);
  events::EventView derived;
  derived.cause = event.cause;
  texts->cause = events::EventId(derived) + "/" + std::to_string(event.cause->m);
}

Status TakeAttribute(std::string_view name, std::string_view text, AttributesSeen* seen,
                     events::EventView* event) {
  const auto wrong = [&](std::string remedy) {
    return Invalid(std::string(name) + ": \"" + std::string(text.substr(0, 64)) + "\" is wrong",
                   std::move(remedy));
  };
  const auto twice = [&]() -> Status {
    return Invalid(std::string(name) + ": is there twice", "send one of each");
  };
  if (name == "specversion") {
    if (text != kSpecVersion) return wrong("send CloudEvents " + std::string(kSpecVersion));
    if (seen->specversion) return twice();
    seen->specversion = true;
    return {};
  }
  std::string_view* plain = nullptr;
  if (name == "type") {
    plain = &event->type;
  } else if (name == "id") {
    plain = &event->id;
  } else if (name == "source") {
    plain = &event->source;
  } else if (name == "subject") {
    plain = &event->subject;
  } else if (name == "dataschema") {
    plain = &event->dataschema;
  } else if (name == "partitionkey") {
    plain = &event->partitionkey;
  } else if (name == "correlationid") {
    plain = &event->correlationid;
  } else if (name == "causationid") {
    plain = &event->causationid;
  } else if (name == "traceparent") {
    plain = &event->traceparent;
  }
  if (plain != nullptr) {
    if (!plain->empty()) return twice();
    if (text.empty()) return wrong("an attribute without a text is left out");
    *plain = text;
  } else if (name == "time") {
    auto time = core::ParseTime(text);
    if (!time) return wrong("write RFC 3339");
    if (seen->time) return twice();
    seen->time = true;
    event->time_us = *time;
  } else if (name == "streamversion" || name == "position") {
    auto& field = name == "position" ? event->position : event->streamversion;
    uint64_t value = 0;
    if (!Number(text, &value)) return wrong("write a decimal number");
    if (field) return twice();
    field = value;
  } else if (name == "cause") {
    events::Cause cause;
    if (!ParseCause(text, &cause)) return wrong("write <topic>/<partition>@<offset>#<n>/<m>");
    if (event->cause) return twice();
    event->cause = cause;
  } else {
    for (const auto& [other, value] : event->extensions) {
      if (other == name) return twice();
    }
    if (event->extensions.size() >= events::kExtensionsMax) {
      return Invalid("extensions: there are more than " + std::to_string(events::kExtensionsMax));
    }
    event->extensions.emplace_back(name, text);
  }
  return {};
}

Status FinishEvent(const AttributesSeen& seen, events::EventView* event,
                   std::vector<events::Event>* structured) {
  if (!seen.specversion && event->datacontenttype.starts_with(kStructuredContentType)) {
    LEAT_ASSIGN(*structured, events::EventsFromJson(event->data, events::Absent::kKept));
    if (structured->size() != 1) return Invalid("a message holds one event, this one several");
    *event = structured->front().view();
    return {};
  }
  if (!seen.specversion) {
    return Invalid("specversion: is missing", "send CloudEvents " + std::string(kSpecVersion));
  }
  if (event->type.empty()) return Invalid("type: is missing", "every CloudEvent has one");
  if (event->datacontenttype == events::kProtobufContentType) event->datacontenttype = {};
  if (event->cause && !event->id.empty()) {
    // An id that its cause gives is not kept twice.
    events::EventView derived;
    derived.cause = event->cause;
    if (events::EventId(derived) == event->id) event->id = {};
  }
  return events::CheckLimits(*event);
}

}  // namespace leat::bus
