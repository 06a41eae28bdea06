//go:build linux

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file is what runs inside a machine, as process 1 of its namespaces.

// machineProgram is what a machine's first process calls itself, with the
// cluster's folder and its own name as arguments. It is how Down finds the
// machines of a cluster, whatever became of the program that made them.
const machineProgram = "portico-machine"

// Files in a machine's folder.
const (
	settingsFile = "machine.json"
	socketFile   = "init.sock"
)

// settings is what a machine is told when it starts.
type settings struct {
	Sysctls map[string]string // path below /proc/sys → value; of the machine's network namespace
}

// init makes every program that imports this package able to be a machine: Up
// starts machines as copies of the running program.
func init() {
	if len(os.Args) != 3 || os.Args[0] != machineProgram {
		return
	}
	// The harness reads from file 3 until it is closed: nothing, or what is wrong.
	ready := os.NewFile(3, "ready")
	listener, err := setUp(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprint(ready, err)
		os.Exit(1)
	}
	ready.Close()
	supervise(listener)
}

// setUp turns the new namespaces into a machine and listens for orders.
func setUp(state, name string) (net.Listener, error) {
	dir := filepath.Join(state, name)
	content, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if err != nil {
		return nil, err
	}
	var s settings
	if err := json.Unmarshal(content, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", settingsFile, err)
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return nil, fmt.Errorf("setting the host name: %w", err)
	}
	if err := mountAll(dir); err != nil {
		return nil, err
	}
	for key, value := range s.Sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o644); err != nil {
			return nil, err
		}
	}
	return net.Listen("unix", filepath.Join(dir, socketFile))
}

// hidden are folders of the host that kubelet, containerd and CNI plugins
// write to under fixed names. A machine has its own, in memory.
var hidden = []string{"/run", "/var/lib", "/var/log"}

// machineWide are the sysctls that kubelet sets for the whole computer. It
// leaves alone what has the value it wants, so a machine is shown that value.
var machineWide = map[string]string{
	"vm/overcommit_memory": "1",
	"vm/panic_on_oom":      "0",
	"kernel/panic":         "10",
	"kernel/panic_on_oops": "1",
}

func mountAll(dir string) error {
	steps := []func() error{
		// Nothing that is mounted from here on is seen by the host.
		mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE),
		mount("proc", "/proc", "proc", 0),
		func() error { return mountSys(filepath.Join(dir, "cgroup")) },
	}
	for _, folder := range hidden {
		steps = append(steps, mount("tmpfs", folder, "tmpfs", 0))
	}
	for key, value := range machineWide {
		steps = append(steps, func() error { return pretend(key, value) })
	}
	// What pods mount must reach the containers that are there already.
	steps = append(steps, mount("", "/", "", unix.MS_REC|unix.MS_SHARED))
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr) func() error {
	return func() error {
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", target, err)
		}
		return nil
	}
}

// mountSys mounts the sysfs of this network namespace and keeps the cgroups,
// which are mounted below the old one. keep is where they stay meanwhile.
func mountSys(keep string) error {
	const cgroups = "/sys/fs/cgroup"
	if err := os.MkdirAll(keep, 0o755); err != nil {
		return err
	}
	for _, step := range []func() error{
		mount(cgroups, keep, "", unix.MS_BIND|unix.MS_REC),
		func() error { return unix.Unmount("/sys", unix.MNT_DETACH) },
		mount("sysfs", "/sys", "sysfs", 0),
		mount(keep, cgroups, "", unix.MS_MOVE),
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// pretend covers a sysctl with a file that holds the value.
func pretend(key, value string) error {
	file := filepath.Join("/run", "sysctl."+filepath.Base(key))
	if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
		return err
	}
	return mount(file, filepath.Join("/proc/sys", key), "", unix.MS_BIND)()
}

// supervise takes orders and reaps until the listener is closed, which in a
// machine is never: it ends when its first process is killed, and everything in
// it with it.
func supervise(listener net.Listener) {
	s := &supervisor{processes: map[string]*process{}}
	server := rpc.NewServer()
	if err := server.RegisterName("Machine", s); err != nil {
		panic(err) // the methods of supervisor are wrong
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		server.Accept(listener)
	}()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	for {
		select {
		case <-closed:
			return
		case <-signals:
			s.reap()
		}
	}
}

// A supervisor is the process 1 of a machine. Its exported methods are called
// over net/rpc.
type supervisor struct {
	mu sync.Mutex
	// mu protects the following. It is held while a process is started, so that
	// a process is known before it can be reaped.
	processes map[string]*process
}

// process is one that the supervisor was told to start; the last of its name.
type process struct {
	Process
	pid    int
	ended  chan struct{} // closed when reaped
	status unix.WaitStatus
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// reap collects every child that has ended; most are orphans of containerd.
func (s *supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		s.mu.Lock()
		for _, p := range s.processes {
			if p.pid == pid && p.running() {
				p.status = status
				close(p.ended)
			}
		}
		s.mu.Unlock()
	}
}

// Start starts a process.
func (s *supervisor) Start(p Process, _ *struct{}) error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.processes[p.Name]; old != nil && old.running() {
		return fmt.Errorf("%s is running already", p.Name)
	}
	// Not waited for through os: children are reaped in one place.
	started, err := os.StartProcess(p.Args[0], p.Args, &os.ProcAttr{
		Env: p.Env, Files: []*os.File{null, log, log}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	s.processes[p.Name] = &process{Process: p, pid: started.Pid, ended: make(chan struct{})}
	return started.Release()
}

// Restart starts a process anew that has ended.
func (s *supervisor) Restart(name string, _ *struct{}) error {
	p, err := s.process(name)
	if err != nil {
		return err
	}
	return s.Start(p.Process, nil)
}

// Status says in words how a process ended; empty while it runs.
func (s *supervisor) Status(name string, ended *string) error {
	p, err := s.process(name)
	if err != nil || p.running() {
		return err
	}
	*ended = describe(p.status)
	return nil
}

// Signal is the argument of the method of the same name.
type Signal struct {
	Name   string
	Signal syscall.Signal
}

// Signal sends a signal to a process.
func (s *supervisor) Signal(order Signal, _ *struct{}) error {
	p, err := s.process(order.Name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.running() {
		return fmt.Errorf("%s has ended: %s", order.Name, describe(p.status))
	}
	return unix.Kill(p.pid, order.Signal)
}

// Stop is the argument of the method of the same name.
type Stop struct {
	Name  string
	Grace time.Duration
}

// Stop asks a process to end, kills it after the grace time, and returns when
// it is gone.
func (s *supervisor) Stop(order Stop, _ *struct{}) error {
	if err := s.Signal(Signal{order.Name, unix.SIGTERM}, nil); err != nil {
		return err
	}
	p, err := s.process(order.Name)
	if err != nil {
		return err
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(order.Grace):
	}
	_ = s.Signal(Signal{order.Name, unix.SIGKILL}, nil) // fails if it ended just now
	<-p.ended
	return nil
}

func (s *supervisor) process(name string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.processes[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("no process named %s was started", name)
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "killed by " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("exited with code %d", status.ExitStatus())
}

// writeSettings is the harness's side of settingsFile.
func writeSettings(dir string, s settings) error {
	content, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, settingsFile), content, 0o644)
}

// readReady returns what a machine says of its start.
func readReady(r io.Reader) error {
	message, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(message) > 0 {
		return errors.New(string(message))
	}
	return nil
}
