//go:build linux

package cluster

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// startDNS makes CoreDNS's objects and returns when it answers.
func (c *Cluster) startDNS(ctx context.Context) error {
	manifest, err := render("dns.yaml", c.values(0))
	if err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, string(manifest), "create", "-f", "-"); err != nil {
		return err
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	const namespace, name = "kube-system", "coredns"
	err = poll(ctx, func(ctx context.Context) error {
		d, err := client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas == 0 {
			return fmt.Errorf("deployment %s/%s has no ready pod", namespace, name)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("CoreDNS: %w\n%s", err, warnings(context.WithoutCancel(ctx), client, namespace))
	}
	return nil
}

// warnings returns what Kubernetes says is wrong in a namespace, a line each.
func warnings(ctx context.Context, client kubernetes.Interface, namespace string) string {
	events, err := client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning"})
	if err != nil {
		return "its Events cannot be read: " + err.Error()
	}
	var lines []string
	for _, e := range events.Items {
		lines = append(lines, fmt.Sprintf("  %s %s: %s: %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message))
	}
	return strings.Join(lines, "\n")
}
