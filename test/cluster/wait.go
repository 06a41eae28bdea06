//go:build linux

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// patience bounds each wait for a component. It is generous: on a machine
// under load a start takes many times what it takes on an idle one.
const patience = 3 * time.Minute

// A Failure is a component that did not start.
type Failure struct {
	Component string // for example kubelet
	Machine   string
	Log       string // file
	Err       error
}

// Error includes the last lines of the component's log.
func (f *Failure) Error() string {
	return fmt.Sprintf("%s on %s: %v\n--- last lines of %s\n%s", f.Component, f.Machine, f.Err, f.Log, tail(f.Log, 15))
}

func (f *Failure) Unwrap() error { return f.Err }

// tail returns the last lines of a file, indented.
func tail(file string, lines int) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return "  " + err.Error()
	}
	all := strings.Split(string(bytes.TrimSpace(content)), "\n")
	return "  " + strings.Join(all[max(0, len(all)-lines):], "\n  ")
}

// poll tries until it succeeds. Its error is the last one of try.
func poll(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("gave up after %v", patience))
	defer cancel()
	const pause = 50 * time.Millisecond
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		var failure *Failure
		if errors.As(err, &failure) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-timer.C:
			timer.Reset(pause)
		}
	}
}

// await tries until it succeeds, or until the process that this is up to has
// ended.
func (m *Machine) await(ctx context.Context, process string, try func(context.Context) error) error {
	err := poll(ctx, func(ctx context.Context) error {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ended, rpcErr := m.Ended(ctx, process); rpcErr != nil {
			return m.failure(process, rpcErr)
		} else if ended != "" {
			return m.failure(process, errors.New(ended))
		}
		return err
	})
	var failure *Failure
	switch {
	case err == nil, errors.As(err, &failure):
		return err
	case ctx.Err() != nil:
		return ctx.Err() // interrupted: it is nobody's fault
	}
	return m.failure(process, err)
}

func (m *Machine) failure(process string, err error) *Failure {
	return &Failure{Component: process, Machine: m.Name, Log: m.Log(process), Err: err}
}
