// Package manifest reads Kubernetes objects from files: YAML and JSON, several
// documents to a file, List kinds unfolded. Decoding is strict, and every
// fault says in which file, line and field it is and what to do about it. A
// faulty object is left out; it never stops the others.
//
// What is read is what an apiserver would have stored: defaults are filled in,
// stringData is merged into data, old Ingress versions are converted to
// networking/v1.
package manifest

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/portico-ingress/portico/router/diag"
)

// Set is what some manifests hold, in the order of the files. It is not
// written after Load or Decode returned it.
type Set struct {
	Ingresses []*networkingv1.Ingress
	Classes   []*networkingv1.IngressClass
	Services  []*corev1.Service
	Slices    []*discoveryv1.EndpointSlice
	//lint:ignore SA1019 people still write Endpoints by hand
	Endpoints []*corev1.Endpoints
	Secrets   []*corev1.Secret

	// Files are the names of the files that were read.
	Files []string
	// Notices are remarks that need no action today.
	Notices []Notice
	// Ignored counts the objects of other kinds, by "apiVersion Kind".
	Ignored map[string]int

	// places holds every object that has a name, faulty ones included. Its
	// keys carry no UID.
	places map[diag.Ref]place
}

// Fault is something in a manifest that has to be mended. The object it is in
// was left out.
type Fault struct {
	File    string
	Line    int      // from 1; 0 if the fault is not in a line
	Object  diag.Ref // zero if the fault is not in an object
	Field   string   // as kubectl explain spells it; empty for the whole object
	Message string   // what is wrong
	Remedy  string   // what to do about it; may be empty
}

// String returns "shop.yaml:12: Ingress default/shop: spec.rules[0].host:
// message; remedy".
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(position(f.File, f.Line))
	if f.Object != (diag.Ref{}) {
		b.WriteString(f.Object.String() + ": ")
	}
	if f.Field != "" {
		b.WriteString(f.Field + ": ")
	}
	b.WriteString(f.Message)
	if f.Remedy != "" {
		b.WriteString("; " + f.Remedy)
	}
	return b.String()
}

// Notice is a remark about an object that was understood.
type Notice struct {
	File   string
	Line   int
	Object diag.Ref
	Text   string // may span lines
}

// String returns "shop.yaml:12: Ingress default/shop: text".
func (n Notice) String() string {
	s := position(n.File, n.Line)
	if n.Object != (diag.Ref{}) {
		s += n.Object.String() + ": "
	}
	return s + n.Text
}

// position returns "file:line: ", without what is not known.
func position(file string, line int) string {
	switch {
	case file == "":
		return ""
	case line == 0:
		return file + ": "
	}
	return fmt.Sprintf("%s:%d: ", file, line)
}

// Position says where a field of an object is written. Where the field itself
// is not written it is the line of the nearest parent that is; ok is false if
// the object is not in the set. The UID of ref plays no part.
func (s *Set) Position(ref diag.Ref, field string) (file string, line int, ok bool) {
	ref.UID = ""
	p, ok := s.places[ref]
	if !ok {
		return "", 0, false
	}
	return p.file, p.line(field), true
}

// Others names the objects of the set that are neither Ingress nor
// IngressClass, faulty ones included, and counts those that were ignored.
func (s *Set) Others() []string {
	var out []string
	for ref := range s.places {
		if ref.Kind != "Ingress" && ref.Kind != "IngressClass" {
			out = append(out, ref.String())
		}
	}
	for kind, n := range s.Ignored {
		out = append(out, fmt.Sprintf("%d of %s", n, kind))
	}
	slices.Sort(out)
	return out
}

// Len is the number of objects in the set.
func (s *Set) Len() int {
	return len(s.Ingresses) + len(s.Classes) + len(s.Services) + len(s.Slices) + len(s.Endpoints) + len(s.Secrets)
}
