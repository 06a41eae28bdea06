//go:build !acme

package acme

import (
	"fmt"
	"os"
	"testing"

	"github.com/portico-ingress/portico/test/pebble"
)

func TestMain(m *testing.M) {
	if err := pebble.Assets(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
