//! A program that uses laminar-xdp. The benchmark reports by how many bytes this program is larger
//! than `size-without`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{:?}", std::env::args());
    let config = laminar_xdp::XdpConfig::builder().enabled(true).build()?;
    let loader = laminar_xdp::XdpLoader::load_and_attach(&config, &[0])?;
    println!("{:?}", loader.stats()?);
    Ok(())
}
