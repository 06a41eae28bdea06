package manifest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	maxDepth = 64
	// maxAliased bounds the nodes that aliases may add to one object, so
	// that a small file cannot unfold into a large one.
	maxAliased = 10_000
)

// decoder fills Go values of the Kubernetes API types from YAML nodes. It
// goes by the json tags, as an apiserver does, but keeps hold of the node, so
// that every fault has its line. One decoder serves one object.
type decoder struct {
	fault   func(n *yaml.Node, field, message, remedy string)
	structs map[reflect.Type]structFields // shared by the objects of a file
	aliased int
	inAlias int
	full    bool // the bound on aliases was reported
	// secret keeps values out of faults: they end up in logs.
	secret bool
}

// structFields are the fields of a struct by JSON name.
type structFields map[string][]int

// object decodes the mapping n into the struct that into points to.
func (d *decoder) object(n *yaml.Node, into any) {
	d.value(n, reflect.ValueOf(into).Elem(), "", 0)
}

// value decodes n into v. A null leaves v as it is.
func (d *decoder) value(n *yaml.Node, v reflect.Value, field string, depth int) {
	n, leave, ok := d.enter(n, field, depth)
	if !ok {
		return
	}
	defer leave()
	if n.ShortTag() == "!!null" {
		return
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		d.unmarshal(n, u, v.Type(), field, depth)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), field, depth+1)
	case reflect.Struct:
		d.structure(n, v, field, depth)
	case reflect.Map:
		d.mapping(n, v, field, depth)
	case reflect.Slice:
		d.sequence(n, v, field, depth)
	default:
		d.scalar(n, v, field)
	}
}

// enter resolves an alias and holds the bounds.
func (d *decoder) enter(n *yaml.Node, field string, depth int) (_ *yaml.Node, leave func(), ok bool) {
	if depth > maxDepth {
		d.fault(n, field, fmt.Sprintf("is nested more than %d deep", maxDepth), "")
		return nil, nil, false
	}
	leave = func() {}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
		d.inAlias++
		leave = func() { d.inAlias-- }
	}
	if d.inAlias > 0 {
		d.aliased++
	}
	if d.aliased > maxAliased {
		if !d.full {
			d.fault(n, field, fmt.Sprintf("aliases (*) unfold to more than %d values", maxAliased), "write the fields out")
		}
		d.full = true
		return nil, nil, false
	}
	return n, leave, true
}

// structure decodes a mapping whose keys are the fields of a struct.
func (d *decoder) structure(n *yaml.Node, v reflect.Value, field string, depth int) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(n, field, "fields (name: value)")
		return
	}
	known := d.fields(v.Type())
	d.pairs(n, field, func(key, value *yaml.Node, name string) {
		index, ok := known[name]
		if !ok {
			d.fault(key, join(field, name), "unknown field", suggestion(name, known))
			return
		}
		d.value(value, v.FieldByIndex(index), join(field, name), depth+1)
	})
}

// mapping decodes a mapping into a map with string keys.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, field string, depth int) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(n, field, "fields (name: value)")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, field, func(_, value *yaml.Node, name string) {
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(value, element, field+"["+name+"]", depth+1)
		v.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), element)
	})
}

// pairs calls each for every key of a mapping, and reports keys that stand
// there twice.
func (d *decoder) pairs(n *yaml.Node, field string, each func(key, value *yaml.Node, name string)) {
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.ShortTag() == "!!merge":
			d.fault(key, field, "merge keys (<<) are not supported", "write the fields out")
			continue
		case key.Kind != yaml.ScalarNode:
			d.fault(key, field, "a field name must be plain text", "")
			continue
		}
		if first, twice := seen[key.Value]; twice {
			d.fault(key, join(field, key.Value), "is given twice"+lines(first, key), "keep one of the two")
			continue
		}
		seen[key.Value] = key
		each(key, value, key.Value)
	}
}

// lines says how far up the first of two nodes is.
func lines(first, second *yaml.Node) string {
	if up := second.Line - first.Line; up > 0 {
		return fmt.Sprintf(" (first %s above)", plural(up, "line"))
	}
	return ""
}

// sequence decodes a list, or bytes from base64.
func (d *decoder) sequence(n *yaml.Node, v reflect.Value, field string, depth int) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		d.bytes(n, v, field)
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.wrongType(n, field, "a list (- item)")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", field, i), depth+1)
	}
}

func (d *decoder) bytes(n *yaml.Node, v reflect.Value, field string) {
	// Line breaks in base64 come from block scalars; an apiserver skips them
	// as well.
	b, err := base64.StdEncoding.DecodeString(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		d.fault(n, field, "is not base64", "encode it with base64 -w0, or put the plain text under stringData")
		return
	}
	v.SetBytes(b)
}

// unmarshal decodes into a type that reads JSON by itself (Time, IntOrString,
// Quantity).
func (d *decoder) unmarshal(n *yaml.Node, u json.Unmarshaler, t reflect.Type, field string, depth int) {
	plain, ok := d.plain(n, field, depth)
	if !ok {
		return
	}
	text, err := json.Marshal(plain)
	if err == nil {
		err = u.UnmarshalJSON(text)
	}
	if err != nil {
		d.fault(n, field, fmt.Sprintf("%s is not a valid %s", d.describe(n), t.Name()), "")
	}
}

// plain returns n as encoding/json would have read it.
func (d *decoder) plain(n *yaml.Node, field string, depth int) (value any, ok bool) {
	n, leave, ok := d.enter(n, field, depth)
	if !ok {
		return nil, false
	}
	defer leave()
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		d.pairs(n, field, func(_, v *yaml.Node, name string) {
			var one bool
			m[name], one = d.plain(v, join(field, name), depth+1)
			ok = ok && one
		})
		return m, ok
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, v := range n.Content {
			var one bool
			list[i], one = d.plain(v, fmt.Sprintf("%s[%d]", field, i), depth+1)
			ok = ok && one
		}
		return list, ok
	}
	if isText(n) {
		return n.Value, true
	}
	if n.Decode(&value) != nil {
		d.wrongType(n, field, "a plain value")
		return nil, false
	}
	return value, true
}

// scalar decodes text, numbers and booleans.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.ScalarNode {
		d.wrongType(n, field, kindName(v.Kind()))
		return
	}
	if v.Kind() == reflect.String {
		d.text(n, v, field)
		return
	}
	wrong := v.CanInt() && n.ShortTag() != "!!int" || v.Kind() == reflect.Bool && n.ShortTag() != "!!bool"
	if wrong || n.Decode(v.Addr().Interface()) != nil {
		d.wrongType(n, field, kindName(v.Kind()))
	}
}

// text decodes into a string. Unquoted words that kubectl reads as booleans
// are refused, although this parser would read them as text: the manifest
// must mean the same in a cluster.
func (d *decoder) text(n *yaml.Node, v reflect.Value, field string) {
	quote := "put it in quotes"
	if !d.secret {
		quote += fmt.Sprintf(": %q", n.Value)
	}
	switch {
	case !isText(n):
		d.fault(n, field, fmt.Sprintf("must be text, %s is not", d.describe(n)), quote)
	case n.Style == 0 && isOldBoolean(n.Value):
		d.fault(n, field, fmt.Sprintf("must be text, but kubectl reads %s as true or false", d.describe(n)), quote)
	default:
		v.SetString(n.Value)
	}
}

// isText also takes timestamps, which JSON writes as text.
func isText(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && (n.ShortTag() == "!!str" || n.ShortTag() == "!!timestamp")
}

// isOldBoolean reports whether s is a boolean in YAML 1.1 only.
func isOldBoolean(s string) bool {
	switch strings.ToLower(s) {
	case "yes", "no", "on", "off":
		return s == strings.ToLower(s) || s == strings.ToUpper(s) || s[1:] == strings.ToLower(s[1:])
	}
	return false
}

func (d *decoder) wrongType(n *yaml.Node, field, want string) {
	d.fault(n, field, fmt.Sprintf("must be %s, %s is not", want, d.describe(n)), "")
}

func kindName(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// describe says what a node is, in the reader's words.
func (d *decoder) describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a group of fields"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case d.secret:
		return "this value"
	}
	if len(n.Value) > 40 {
		return fmt.Sprintf("%q…", n.Value[:40])
	}
	if isText(n) {
		return fmt.Sprintf("%q", n.Value)
	}
	return n.Value
}

// join appends a name to a field path.
func join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}

// fields returns the fields of a struct by their JSON names, those of inlined
// structs included.
func (d *decoder) fields(t reflect.Type) structFields {
	known, ok := d.structs[t]
	if !ok {
		known = make(structFields, t.NumField())
		known.add(t, nil)
		d.structs[t] = known
	}
	return known
}

func (known structFields) add(t reflect.Type, parent []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(slices.Clone(parent), i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			known.add(f.Type, index)
		case name != "" && name != "-":
			known[name] = index
		}
	}
}
