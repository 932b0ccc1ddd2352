// CloudEvents attributes as pairs of name and text: what the bindings of brokers put into a
// message's headers, behind a prefix of their own. Beside the standard ones: partitionkey,
// streamversion and position (decimal), correlationid, causationid, traceparent, and cause as
// "<topic>/<partition>@<offset>#<n>/<m>".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "events/event.h"

namespace leat::bus {

inline constexpr std::string_view kSpecVersion = "1.0";

// What must be kept while the texts of an event are used: those that are not in the event as they
// are written.
struct AttributeTexts {
  std::string id;
  std::string time;
  std::string version;
  std::string position;
  std::string cause;
};

// Calls visit(name, text) for every attribute that is there, specversion first; not for
// datacontenttype, which the bindings keep in a place of its own. The texts live as long as the
// event and `texts` do.
template <typename Visit>
void ForEachAttribute(const events::EventView& event, AttributeTexts* texts, Visit&& visit);

// What was seen of a message's attributes and is not in the event.
struct AttributesSeen {
  bool specversion = false;
  bool time = false;
};

// Sets the attribute in `event`; a name that is not known becomes an extension. The text must
// outlive the event. Errors: kInvalid, naming the attribute: it is wrong, empty, or there twice.
Status TakeAttribute(std::string_view name, std::string_view text, AttributesSeen* seen,
                     events::EventView* event);
// To be called behind the last attribute, with the message's payload as the event's data. A message
// without attributes may be an event in structured JSON: then `event` views into `structured`.
// Errors: kInvalid: no specversion, no type, several events, or a limit of the envelope.
Status FinishEvent(const AttributesSeen& seen, events::EventView* event,
                   std::vector<events::Event>* structured);

// ---- implementation

void WriteAttributeTexts(const events::EventView& event, AttributeTexts* texts);

template <typename Visit>
void ForEachAttribute(const events::EventView& event, AttributeTexts* texts, Visit&& visit) {
  WriteAttributeTexts(event, texts);
  const auto there = [&](std::string_view name, std::string_view text) {
    if (!text.empty()) visit(name, text);
  };
  visit("specversion", kSpecVersion);
  there("type", event.type);
  there("id", event.id.empty() ? std::string_view(texts->id) : event.id);
  there("source", event.source);
  visit("time", texts->time);
  there("subject", event.subject);
  there("dataschema", event.dataschema);
  there("partitionkey", event.partitionkey);
  there("streamversion", texts->version);
  there("position", texts->position);
  there("correlationid", event.correlationid);
  there("causationid", event.causationid);
  there("traceparent", event.traceparent);
  there("cause", texts->cause);
  for (const auto& [name, text] : event.extensions) visit(name, text);
}

}  // namespace leat::bus
