package manifest

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/portico-ingress/portico/router/diag"
)

const (
	maxFileBytes = 8 << 20
	maxDocuments = 20_000 // in one file, items of lists included
)

// Decode reads one file. Name is what faults call it.
func Decode(r io.Reader, name string) (*Set, []Fault) {
	c := newCollector()
	c.file(r, name)
	return c.done()
}

// collector gathers objects and faults file by file. Used by one goroutine.
type collector struct {
	set     *Set
	faults  []Fault
	structs map[reflect.Type]structFields
	old     oldForms
	// The following belong to the file that is being read.
	name      string
	documents int
}

func newCollector() *collector {
	return &collector{
		set: &Set{
			Ignored: make(map[string]int),
			places:  make(map[diag.Ref]place),
		},
		structs: make(map[reflect.Type]structFields),
	}
}

// done returns what was gathered.
func (c *collector) done() (*Set, []Fault) {
	c.old.tell(c.set)
	return c.set, c.faults
}

// file reads one file into the set.
func (c *collector) file(r io.Reader, name string) {
	first := len(c.faults)
	c.name, c.documents = name, 0
	c.set.Files = append(c.set.Files, name)
	text, err := io.ReadAll(io.LimitReader(r, maxFileBytes+1))
	if err != nil {
		c.faults = append(c.faults, Fault{File: name, Message: "cannot be read: " + err.Error()})
		return
	}
	if len(text) > maxFileBytes {
		c.faults = append(c.faults, Fault{File: name,
			Message: fmt.Sprintf("is larger than %d MiB", maxFileBytes>>20), Remedy: "split it into several files"})
		return
	}
	for _, doc := range split(text) {
		roots, err := doc.parse()
		for _, root := range roots {
			c.object(root, doc.before, typeMeta{})
		}
		if err != nil {
			line, text := doc.syntax(err)
			c.faults = append(c.faults, Fault{File: name, Line: line, Message: "is not valid YAML: " + text,
				Remedy: "check indentation, colons and quotes here and in the line above"})
		}
	}
	slices.SortStableFunc(c.faults[first:], func(a, b Fault) int { return a.Line - b.Line })
}

// object takes one object, or a list of objects. A typed list's items need not repeat the type;
// inherited is what they are then.
func (c *collector) object(n *yaml.Node, before int, inherited typeMeta) {
	if c.documents++; c.documents > maxDocuments {
		if c.documents == maxDocuments+1 {
			c.faults = append(c.faults, Fault{File: c.name, Line: before + n.Line,
				Message: fmt.Sprintf("holds more than %d objects", maxDocuments), Remedy: "split it into several files"})
		}
		return
	}
	o := &object{collector: c, place: place{c.name, before, n}}
	if n.Kind == yaml.AliasNode || n.Kind != yaml.MappingNode {
		o.fault(n, "", "is not a Kubernetes object: it has no apiVersion and kind", "remove it, or move it out of the folder")
		return
	}
	o.typ = typeOf(n)
	if o.typ == (typeMeta{}) {
		o.typ = inherited
	}
	if o.typ.kind == "" || o.typ.apiVersion == "" {
		o.fault(n, "", "is not a Kubernetes object: it lacks apiVersion or kind", "add both, or move it out of the folder")
		return
	}
	if element, ok := strings.CutSuffix(o.typ.kind, "List"); ok {
		c.list(o, typeMeta{o.typ.apiVersion, element})
		return
	}
	o.decode()
}

// list unfolds a List, or a typed list such as IngressList.
func (c *collector) list(o *object, element typeMeta) {
	if element.kind == "" {
		element = typeMeta{} // a v1 List: each item says what it is
	}
	items := child(o.place.node, "items")
	if items == nil || items.ShortTag() == "!!null" {
		return
	}
	if items.Kind != yaml.SequenceNode {
		o.fault(items, "items", "must be a list (- item)", "")
		return
	}
	for _, item := range items.Content {
		c.object(item, o.place.before, element)
	}
}

// typeMeta is apiVersion and kind.
type typeMeta struct{ apiVersion, kind string }

func (t typeMeta) group() string {
	group, _, ok := strings.Cut(t.apiVersion, "/")
	if !ok {
		return ""
	}
	return group
}

// typeOf reads apiVersion and kind; whatever is not text counts as missing.
func typeOf(n *yaml.Node) (t typeMeta) {
	if v := child(n, "apiVersion"); v != nil && isText(v) {
		t.apiVersion = v.Value
	}
	if v := child(n, "kind"); v != nil && isText(v) {
		t.kind = v.Value
	}
	return t
}

// child returns the value of a key, aliases resolved, or nil.
func child(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != name {
			continue
		}
		if v := n.Content[i+1]; v.Kind == yaml.AliasNode {
			return v.Alias
		}
		return n.Content[i+1]
	}
	return nil
}
