package diag_test

import (
	"testing"

	"github.com/portico-ingress/portico/router/diag"
)

// What others have written stays one line, and no longer than it may be.
func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                        "plain",
		"no\r\n\tgood.example  issued": "no good.example issued",
		"a\x1b[2Jb\x00c":               "a [2Jb c",
		"a\u2028b\u2029c\u0085d":       "a b c d",
		"a\u202egnp.exe":               "a gnp.exe",
		"bad \xff":                     "bad \ufffd",
		"0123456789012345678901234567": "012345678901234567890…",
	} {
		if got := diag.OneLine(in, 24); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
