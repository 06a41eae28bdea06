// Package diag is the vocabulary in which Portico reports faults in user
// objects: a Problem names the object and the field, says what is wrong and
// what to do about it. A Problem is data carried beside the usable rest; it is
// never an error that stops other objects.
package diag

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Ref names one Kubernetes object. It is comparable and safe as a map key:
// keys are structs so that namespace "a-b", name "c" and namespace "a",
// name "b-c" stay apart.
type Ref struct {
	Kind      string
	Namespace string // empty for cluster-scoped objects
	Name      string
	UID       string // empty in folder mode
}

// String returns "Kind namespace/name".
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// Shorten cuts a text between runes, so that it and an ellipsis take at most
// limit bytes.
func Shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const ellipsis = "…"
	n := limit - len(ellipsis)
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + ellipsis
}

// OneLine makes one line of a text that somebody else has written, so that it can
// neither break a table nor pass for a line of ours: control characters, line ends
// of any script and what turns the direction of writing become spaces, runs of
// spaces one, and what is no UTF-8 a mark. It takes at most limit bytes.
func OneLine(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	return Shorten(strings.Join(strings.Fields(text), " "), limit)
}

// Reason is a constant CamelCase word that stands for one kind of fault. It
// becomes the reason of the Event, so it never varies with the object.
type Reason string

// Problem is a fault in one object.
type Problem struct {
	Object Ref
	// Generation is metadata.generation of the object that was judged, 0 if
	// unknown. Events are written once per object, generation and reason.
	Generation int64
	// Field is the path of the faulty field as kubectl explain spells it,
	// for example "spec.rules[0].http.paths[1].path"; empty for the whole
	// object.
	Field   string
	Reason  Reason
	Message string // what is wrong, in a sentence
	Remedy  string // what to do about it, in a sentence; may be empty
}

// Text returns message and remedy as one line.
func (p Problem) Text() string {
	if p.Remedy == "" {
		return p.Message
	}
	return strings.TrimSuffix(p.Message, ".") + ". " + p.Remedy
}

// MaxNote is how long the text of an Event may be, in bytes, for an apiserver to
// take it.
const MaxNote = 1024

// Note returns field and text, as an Event on the object holds them.
func (p Problem) Note() string {
	text := p.Text()
	if p.Field != "" {
		text = p.Field + ": " + text
	}
	return Shorten(text, MaxNote)
}

// String returns "Ingress shop/web: spec.tls[0]: Reason: text".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Object.String())
	b.WriteString(": ")
	if p.Field != "" {
		b.WriteString(p.Field)
		b.WriteString(": ")
	}
	b.WriteString(string(p.Reason))
	b.WriteString(": ")
	b.WriteString(p.Text())
	return b.String()
}

// Sort orders problems by object, field, reason and text, and removes
// duplicates, so that the same objects always give the same list. It works in
// place and returns the shortened slice.
func Sort(ps []Problem) []Problem {
	slices.SortFunc(ps, Compare)
	return slices.CompactFunc(ps, func(a, b Problem) bool { return a == b })
}

// Compare is a total order over problems.
func Compare(a, b Problem) int {
	return cmp.Or(
		strings.Compare(a.Object.Kind, b.Object.Kind),
		strings.Compare(a.Object.Namespace, b.Object.Namespace),
		strings.Compare(a.Object.Name, b.Object.Name),
		strings.Compare(a.Object.UID, b.Object.UID),
		strings.Compare(a.Field, b.Field),
		strings.Compare(string(a.Reason), string(b.Reason)),
		strings.Compare(a.Message, b.Message),
		strings.Compare(a.Remedy, b.Remedy),
		cmp.Compare(a.Generation, b.Generation),
	)
}
