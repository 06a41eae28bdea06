package main

import (
	"os"
	"strings"
	"testing"
)

// TestInstall: the command that the build prints works, as the documents have it.
func TestInstall(t *testing.T) {
	for name, file := range map[string]string{"portico": "README.md", "portico-node": "docs/node.md"} {
		text, err := os.ReadFile("../../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.ReplaceAll(string(text), " \\\n ", ""))
		command, _, _ := strings.Cut(install(name, "v1"), " --set image.")
		if !strings.Contains(string(text), command) {
			t.Errorf("%s does not have %q", file, command)
		}
	}
}
