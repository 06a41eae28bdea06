package h2

import (
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// FuzzHPACK: what our encoder writes another decoder reads, field by field.
func FuzzHPACK(f *testing.F) {
	f.Add("x-a", "b", "accept", "text/html")
	f.Add("Set-Cookie", "a=b; Secure", "AUTHORIZATION", "Basic x")
	f.Add("content-type", strings.Repeat("v", 300), strings.Repeat("n", 200), "")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2 string) {
		fields := view.Fields{{Name: n1, Value: v1}, {Name: n2, Value: v2}}
		for _, fl := range fields {
			if !wire.ValidName(fl.Name) || !wire.ValidValue(fl.Value) || len(fl.Name)+len(fl.Value) > 1000 {
				return
			}
		}
		decoded, err := hpack.NewDecoder(4096, nil).DecodeFull(appendFields(nil, fields))
		if err != nil || len(decoded) != 2 {
			t.Fatalf("%v, %v", decoded, err)
		}
		for i, d := range decoded {
			if d.Name != strings.ToLower(fields[i].Name) || d.Value != fields[i].Value {
				t.Fatalf("%q: %q is read as %q: %q", fields[i].Name, fields[i].Value, d.Name, d.Value)
			}
		}
	})
}
