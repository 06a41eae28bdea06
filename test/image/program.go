package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
)

// A Program is a command of the main module, to be built for an image.
type Program struct {
	// Dir is a folder in the module; Package is as go build takes it.
	Dir, Package string
	// LDFlags are as in go build -ldflags. The symbol table is always left out.
	LDFlags string
}

// Build compiles the program to the file out, static, for Linux on the
// architecture. Two builds of the same sources by the same version of Go are
// equal, wherever they are made.
func (p Program) Build(ctx context.Context, architecture, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w "+p.LDFlags, "-o", out, p.Package)
	cmd.Dir = p.Dir
	// Levels of an architecture would change the output.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s for %s: %w\n%s", p.Package, architecture, err, output.Bytes())
	}
	return nil
}
