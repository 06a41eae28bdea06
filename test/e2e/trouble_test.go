//go:build e2e && linux

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A look is a kubectl command in the namespace, and words in its output.
type look struct {
	command string
	words   []string
}

// troubles are installations with something wrong, each in a namespace of its
// own, and where a user who looks finds it. POD is
// filled in.
var troubles = []struct {
	name   string // and namespace, and release
	values []string
	look   []look
	notes  []string // words in what helm install prints
}{
	{
		name:   "no-image",
		values: []string{"image.tag=missing", "image.pullPolicy=IfNotPresent"},
		look: []look{
			{"get pods", []string{"ImagePull"}},
			{"describe pod", []string{`Failed to pull image "portico.test/portico:missing"`}},
		},
	},
	{
		name:   "port-taken",
		values: []string{"extraEnv[0].name=PORTICO_HTTP_ADDR", "extraEnv[0].value=:8443"}, // the chart refuses the flag
		look: []look{
			{"get pods", []string{"CrashLoopBackOff"}},
			{"logs POD", []string{"--https-addr", ":8443: bind: address already in use"}},
			{"describe pod", []string{":8443: bind: address already in use"}},
		},
	},
	{
		name:   "no-rights",
		values: []string{"rbac.create=false"},
		look: []look{
			{"get pods", []string{"0/1"}},
			{"logs POD", []string{
				`cannot list resource \"ingresses\" in API group \"networking.k8s.io\" at the cluster scope`,
				`cannot list resource \"services\"`, `"msg":"not ready"`, `rbac.create=true`, `system:serviceaccount:no-rights:no-rights-portico`,
			}},
		},
	},
	{
		name:   "no-default-certificate",
		values: []string{"defaultTLSSecret=no-default-certificate/wildcard"},
		look: []look{
			{"get pods", []string{"1/1"}},
			{"get events", []string{"the default certificate is self-signed", "kubectl create secret tls wildcard -n no-default-certificate"}},
			{"logs POD", []string{`"the default certificate has a problem","secret":"no-default-certificate/wildcard"`}},
		},
	},
	{
		name:   "class-clash", // see trouble
		values: []string{"ingressClass.create=true", "ingressClass.name=class-clash"},
		look: []look{
			{"get pods", []string{"1/1"}},
			{"logs POD", []string{"there is no IngressClass to serve", "class-clash (someone.else/controller)"}},
		},
		notes: []string{"IngressClass class-clash in this cluster has the controller someone.else/controller", "--set 'controllerNames={e2e.test/class-clash,someone.else/controller}'"},
	},
}

// trouble: what is wrong with an installation is said where users look first.
func (e *edge) trouble(t *testing.T) {
	const clash = "class-clash"
	e.kubectl(t, `{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: class-clash}, spec: {controller: someone.else/controller}}`, "apply", "-f", "-")
	for _, x := range troubles {
		args := slices.Concat([]string{"install", x.name, "../../charts/portico", "-n", x.name, "--create-namespace"}, values,
			[]string{"--set", "replicas=1", "--set", "ingressClass.create=false", "--set", "controllerNames={e2e.test/" + x.name + "}"})
		for _, value := range x.values {
			args = append(args, "--set", value)
		}
		out := e.runHelm(t, args...)
		for _, words := range x.notes {
			if !strings.Contains(out, words) {
				t.Errorf("the notes of %s do not say %q:\n%s", x.name, words, out)
			}
		}
	}
	for _, x := range troubles {
		t.Run(x.name, func(t *testing.T) {
			pod := e.onlyPod(t, x.name)
			for _, l := range x.look {
				command := strings.ReplaceAll(l.command, "POD", pod)
				for _, words := range l.words {
					e.says(t, words, append(strings.Fields(command), "-n", x.name)...)
				}
			}
		})
	}
	for _, x := range troubles {
		e.runHelm(t, "uninstall", x.name, "-n", x.name, "--no-hooks") // the one without an image has none to run
		e.kubectl(t, "", "delete", "namespace", x.name, "--wait=false")
	}
	if got := e.kubectl(t, "", "get", "ingressclass", clash, "-o", "jsonpath={.spec.controller}"); got != "someone.else/controller" {
		t.Errorf("the class of somebody else has the controller %q", got)
	}
	e.kubectl(t, "", "delete", "ingressclass", clash)
	t.Run("rights taken away", e.rightsTakenAway)
}

// onlyPod waits for the pod of an installation, and returns its name.
func (e *edge) onlyPod(t *testing.T, namespace string) (name string) {
	t.Helper()
	e.eventually(t, "a pod in "+namespace, func() (err error) {
		name, err = e.Kubectl(t.Context(), "", "get", "pods", "-n", namespace, "-o", "jsonpath={.items[0].metadata.name}")
		return err
	})
	return name
}

// rightsTakenAway: pods that serve go on, and a pod that starts is not ready.
func (e *edge) rightsTakenAway(t *testing.T) {
	binding := namespace + "-" + full
	saved := e.kubectl(t, "", "get", "clusterrolebinding", binding, "-o", "json")
	pod := e.controllers(t)[0].Name
	e.under(t, func() {
		e.kubectl(t, "", "delete", "clusterrolebinding", binding)
		e.kubectl(t, "", "delete", "pod", "-n", namespace, pod)
		fresh := e.unready(t)
		e.waitsForRights(t, fresh)
		e.kubectl(t, saved, "apply", "-f", "-")
		e.rollout(t, "-n", namespace, "deployment/"+full)
	})
}

// waitsForRights asks a pod that is not ready why, as the chart's notes say.
func (e *edge) waitsForRights(t *testing.T, pod corev1.Pod) {
	t.Helper()
	admin := e.forward(t, pod, 9090)
	e.eventually(t, "the reason at /readyz", func() error {
		got, err := fetch(t.Context(), admin+"/readyz")
		for _, kind := range []string{"ingresses", "services", "endpointslices"} {
			if want := fmt.Sprintf("[-] %s: the first list has not been delivered: ", kind); err != nil || !strings.Contains(got, want) ||
				!strings.Contains(got, fmt.Sprintf("cannot list resource %q", kind)) {
				return fmt.Errorf("want %q and the refusal, got %v\n%s", want, err, got)
			}
		}
		return nil
	})
}

// unready returns a running pod of the controller that is not ready.
func (e *edge) unready(t *testing.T) (pod corev1.Pod) {
	t.Helper()
	e.eventually(t, "a pod that is not ready", func() error {
		list, err := e.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + release})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list.Items, func(p corev1.Pod) bool {
			return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && !ready(&p)
		})
		if i < 0 {
			return errors.New("there is none")
		}
		pod = list.Items[i]
		return nil
	})
	return pod
}
