package view

import (
	"iter"
	"strings"
)

// Fields is an ordered list of field lines. The zero value is empty and ready
// to use. Methods compare names without case.
type Fields []Field

// is compares the name. Names are tokens, so those that match are of one length.
func (f *Field) is(name string) bool {
	return len(f.Name) == len(name) && strings.EqualFold(f.Name, name)
}

// Get returns the first value of name, or "".
func (fs Fields) Get(name string) string {
	for i := range fs {
		if fs[i].is(name) {
			return fs[i].Value
		}
	}
	return ""
}

// Has reports whether a field of that name is present.
func (fs Fields) Has(name string) bool {
	for i := range fs {
		if fs[i].is(name) {
			return true
		}
	}
	return false
}

// Values yields every value of name in order.
func (fs Fields) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range fs {
			if fs[i].is(name) && !yield(fs[i].Value) {
				return
			}
		}
	}
}

// Tokens yields the elements of the comma-separated lists in every field line
// of that name (RFC 9110 §5.6.1), trimmed, empty ones left out.
func (fs Fields) Tokens(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for v := range fs.Values(name) {
			for tok := range strings.SplitSeq(v, ",") {
				if tok = strings.Trim(tok, " \t"); tok != "" && !yield(tok) {
					return
				}
			}
		}
	}
}

// HasToken reports whether a list-valued field contains token, without case.
func (fs Fields) HasToken(name, token string) bool {
	for t := range fs.Tokens(name) {
		if strings.EqualFold(t, token) {
			return true
		}
	}
	return false
}

// Del removes every field of that name, in place.
func (fs Fields) Del(name string) Fields {
	return fs.DelFunc(func(f Field) bool { return f.is(name) })
}

// DelFunc removes every field for which del is true, in place.
func (fs Fields) DelFunc(del func(Field) bool) Fields {
	kept := fs[:0]
	for _, f := range fs {
		if !del(f) {
			kept = append(kept, f)
		}
	}
	clear(fs[len(kept):])
	return kept
}

// Set replaces every field of that name by one.
func (fs Fields) Set(name, value string) Fields {
	return append(fs.Del(name), Field{Name: name, Value: value})
}

// Add appends a field line.
func (fs Fields) Add(name, value string) Fields {
	return append(fs, Field{Name: name, Value: value})
}
