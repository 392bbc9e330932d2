//! Other rules about the outside for an agent that is there.

use cloister_protocol::egress::Egress;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::end::MachineError;
use super::requests::Request;
use super::{ANSWER_LIMIT, Machine};

impl Machine {
    /// Gives the supervisor other rules of an agent; one that is not there has none.
    ///
    /// # Errors
    /// They do not hold as a whole, or the machine does not answer, or has ended.
    pub async fn set_egress(&self, agent: u32, egress: Egress) -> Result<(), MachineError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.request(Request::SetEgress { agent, egress, reply }).await?;
            // Dropped without an answer when the agent is not there, or the machine ended.
            Ok(answer.await.unwrap_or(true))
        };
        let holds = timeout(ANSWER_LIMIT, exchange)
            .await
            .unwrap_or(Err(MachineError::NoAnswer { limit: ANSWER_LIMIT }))?;
        if holds { Ok(()) } else { Err(MachineError::Egress) }
    }
}
