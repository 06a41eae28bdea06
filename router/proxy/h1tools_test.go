package proxy

import (
	"testing"

	"github.com/portico-ingress/portico/router/view"
)

// TestToolsAreEmpty: tools that are left to others keep no request alive, which a
// field of it would.
func TestToolsAreEmpty(t *testing.T) {
	c := &h1Conn{e: New(Options{})}
	c.borrow()
	tools := c.h1Tools
	c.head.Fields = append(make(view.Fields, 0, 4), view.Field{Name: "Accept", Value: "*/*"})
	_ = append(c.head.Fields, view.Field{Name: "X-Forwarded-Host", Value: "h"})
	c.giveBack()
	for i, f := range tools.head.Fields[:4] {
		if f != (view.Field{}) {
			t.Errorf("field %d is %v", i, f)
		}
	}
}
